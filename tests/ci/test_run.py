"""The whole job, as the first command of the README does it, with the torch of this environment."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ci.files import sha256_of

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


def farm_run(work: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ci", "run", "--work", work]
    torch = ["--torch-site", sysconfig.get_path("purelib")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "FARM_CALLER": sys.executable}
    return subprocess.run(
        [*command, *torch], check=False, cwd=ROOT, env=environment, capture_output=True, text=True
    )


@pytest.fixture
def work(new_work: Callable[[str], Path], wheel: Path) -> Path:
    """A work folder in which everything is compiled already."""
    folder = new_work("work")
    shutil.copytree(wheel.parents[1] / "cache" / "objects", folder / "cache" / "objects")
    return folder


def test_a_run_ends_with_the_package_installed_from_its_own_site(work: Path, wheel: Path):
    result = farm_run(work)
    assert result.returncode == 0, result.stderr
    assert str(work / "site" / "index.html") in result.stdout
    assert (work / "site" / "index.html").is_file()
    assert "Not checked on this machine:" in result.stdout
    (published,) = (work / "site" / "files").glob("*.whl")
    assert published.name == wheel.name
    where = "import flash_attn3; print(flash_attn3.__file__, flash_attn3.__version__)"
    installed = subprocess.run(
        [work / "env" / "bin" / "python", "-I", "-c", where], check=True, capture_output=True, text=True
    )
    path, version = installed.stdout.split()
    assert Path(path).is_relative_to(work / "env")
    assert version == "0.1.0"
    with zipfile.ZipFile(published) as archive:
        kernels = archive.read("flash_attn3/lib/kernels.fa3pack")
    assert (Path(path).parent / "lib" / "kernels.fa3pack").read_bytes() == kernels


def test_another_build_of_the_same_version_sets_the_old_site_aside(work: Path):
    """A published wheel never changes: the site of before is kept, whole, beside the new one."""
    assert farm_run(work).returncode == 0
    (published,) = (work / "site" / "files").glob("*.whl")
    ours, other = sha256_of(published), "0" * 64
    for page in [*(work / "site").rglob("*.html"), work / "site" / "manifest.json"]:
        page.write_text(page.read_text(encoding="utf-8").replace(ours, other), encoding="utf-8")
    result = farm_run(work)
    assert result.returncode == 0, result.stderr
    (aside,) = work.glob("site-until-*")
    assert str(aside) in result.stderr
    assert other in (aside / "manifest.json").read_text(encoding="utf-8")
    assert other not in (work / "site" / "manifest.json").read_text(encoding="utf-8")
