"""Puts an installed copy of the package first on the path, before any test module imports it."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from tests.flash_attn3.installed import REPOSITORY, choose_site, remove_site

_SITE = pytest.StashKey[Path]()


def pytest_configure(config: pytest.Config) -> None:
    site = choose_site(REPOSITORY / "build" / "tests")
    config.stash[_SITE] = site
    sys.path.insert(0, str(site))


def pytest_unconfigure(config: pytest.Config) -> None:
    remove_site(config.stash.get(_SITE, None))


@pytest.fixture(scope="session")
def site(pytestconfig: pytest.Config) -> Path:
    """The folder from which this session imports the package."""
    return pytestconfig.stash[_SITE]


@pytest.fixture
def site_copy(site: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may damage."""
    if site == REPOSITORY:
        pytest.skip("the tree itself is imported on this machine; set FLASH_ATTN3_SITE to an installed wheel")
    copy = tmp_path / "site"
    shutil.copytree(site / "flash_attn3", copy / "flash_attn3")
    return copy
