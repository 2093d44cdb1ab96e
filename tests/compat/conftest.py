"""Puts compat/, and an installed copy of flash_attn3 for it, on the path before any test imports them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch

from ci.platforms.environment import Environment, fresh_environment, inspect_interpreter
from ci.project import ROOT
from ci.wheel.compat_wheel import make_compat_wheel
from tests.flash_attn3.installed import choose_site, remove_site
from tests.quiet import Quiet

_SITE = pytest.StashKey[Path]()


def pytest_configure(config: pytest.Config) -> None:
    site = choose_site(ROOT / "build" / "tests")
    config.stash[_SITE] = site
    sys.path[:0] = [str(ROOT / "compat"), str(site)]


def pytest_unconfigure(config: pytest.Config) -> None:
    remove_site(config.stash.get(_SITE, None))


@pytest.fixture(scope="session")
def compat_path(pytestconfig: pytest.Config) -> str:
    """PYTHONPATH for a process that imports both packages."""
    return os.pathsep.join((str(ROOT / "compat"), str(pytestconfig.stash[_SITE])))


@pytest.fixture(scope="session")
def compat_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compatibility wheel of this tree."""
    return make_compat_wheel(tmp_path_factory.mktemp("compat"), Quiet())


@pytest.fixture(scope="session")
def installed(wheel: Path, compat_wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """A fresh environment in which pip installed flash-attn-3, and with it the flash-attn3 that it needs."""
    folder = tmp_path_factory.mktemp("installed")
    links = folder / "links"
    links.mkdir()
    for path in (wheel, compat_wheel):
        (links / path.name).symlink_to(path)
    environment = fresh_environment(
        folder / "environment",
        interpreter=inspect_interpreter(Path(sys.executable)),
        torch_site=Path(torch.__file__).parents[1],
        index="http://127.0.0.1:1/",
    )
    environment.shell(f"pip install --no-index --find-links {links} flash-attn-3", cwd=folder)
    return environment
