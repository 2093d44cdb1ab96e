"""Installing from a served site with old and new versions of pip, over HTML and JSON."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from ci.stages.publish import publish
from ci.store.serve import served
from tests.quiet import Quiet
from tests.site_kit import NOW, TRUSTING, flash_wheel, report

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow
PIPS = ("20.3", "22.3", "23.0", "23.2", "")  # the last is the newest
READ_JSON = PIPS[1:]  # pip reads JSON from 22.2 on


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("old-pips")
    wheel = flash_wheel(folder / "dist")
    given = report(folder / "r.json", wheel)
    publish(wheels=[wheel], reports=[given], site=folder / "site", now=NOW, progress=Quiet(), policy=TRUSTING)
    return folder / "site"


@pytest.fixture(scope="module", params=PIPS, ids=lambda version: version or "newest")
def pip(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A version of pip, as a folder that Python can run."""
    version, folder = request.param, tmp_path_factory.mktemp("pip")
    wanted = f"pip=={version}" if version else "pip"
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder), wanted]
    done = subprocess.run(install, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"{wanted} cannot be fetched here: {done.stderr.strip()[-200:]}")
    return version, folder / "pip"


@pytest.mark.parametrize("pages", ["simple/", "simple/v1+json/", "index.html"])
def test_every_pip_installs_from_every_page_that_it_reads(
    site: Path, pip: tuple[str, Path], pages: str, tmp_path: Path
) -> None:
    version, program = pip
    if "json" in pages and version not in READ_JSON:
        pytest.skip(f"pip {version} does not read JSON")
    with served(site) as base:
        links = ["--no-index", "--find-links"] if pages == "index.html" else ["--index-url"]
        done = subprocess.run(
            [
                *(sys.executable, "-I", str(program), "--isolated", "--disable-pip-version-check", "install"),
                *("--no-deps", "--no-cache-dir", "--target", str(tmp_path / "site-packages")),
                *(*links, f"{base}stable/{pages}", "flash-attn3"),
            ],
            check=False,
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site-packages" / "flash_attn3" / "build.json").is_file()
