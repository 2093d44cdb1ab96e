"""The whole job, as the first command of the README does it, with the torch of this environment."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ci.files import sha256_of
from ci.stages.run import publish_locally
from index_site.manifest import SCHEMA_VERSION
from tests.quiet import Quiet
from tests.site_kit import flash_wheel

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.slow
NOW = datetime(2026, 11, 22, tzinfo=timezone.utc)
ROOT = Path(__file__).parents[3]


def farm_run(work: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ci", "run", "--work", work]
    torch = ["--torch-site", sysconfig.get_path("purelib")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "FARM_CALLER": sys.executable}
    return subprocess.run(
        [*command, *torch], check=False, cwd=ROOT, env=environment, capture_output=True, text=True
    )


@pytest.fixture
def work(new_work: Callable[[str], Path], whole_wheel: Path) -> Path:
    """A work folder in which everything is compiled already."""
    folder = new_work("work")
    shutil.copytree(whole_wheel.parents[1] / "cache" / "objects", folder / "cache" / "objects")
    return folder


def test_a_run_ends_with_the_package_installed_from_its_own_site(work: Path, whole_wheel: Path):
    result = farm_run(work)
    assert result.returncode == 0, result.stderr
    assert str(work / "site" / "index.html") in result.stdout
    assert (work / "site" / "index.html").is_file()
    unchecked = result.stdout.split("Not checked on this machine:")[1]
    assert "kernels for GPUs without a validation report: A100, A30 (sm_80); " in unchecked
    assert "GPUs of later architectures" in unchecked
    (published,) = (work / "site" / "files").glob("flash_attn3-*.whl")
    assert published.name == whole_wheel.name
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


def test_a_site_of_another_schema_is_set_aside(tmp_path: Path):
    site, wheel = tmp_path / "site", flash_wheel(tmp_path / "dist")
    publish_locally(wheels=[wheel], reports=[], site=site, now=NOW, progress=Quiet())
    written = (site / "manifest.json").read_text()
    older = written.replace(f'"schema_version":{SCHEMA_VERSION}', '"schema_version":1', 1)
    (site / "manifest.json").write_text(older)
    progress = Quiet()
    publish_locally(wheels=[wheel], reports=[], site=site, now=NOW, progress=progress)
    assert (site / "manifest.json").read_text() == written
    assert ["an older manifest" in warning for warning in progress.warned] == [True]
    (aside,) = tmp_path.glob("site-until-*")
    assert (aside / "files" / wheel.name).is_file()


def test_another_build_of_the_same_version_sets_the_old_site_aside(wheel: Path, tmp_path: Path):
    """A published wheel never changes: the site of before is kept, whole, beside the new one."""
    site = tmp_path / "site"
    renamed = tmp_path / wheel.name
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(renamed, "w") as target:
        for name in reversed(
            source.namelist()
        ):  # the same files in another order: a whole wheel, other bytes
            target.writestr(name, source.read(name))
    published = []
    for build in (wheel, wheel, renamed):
        progress = Quiet()
        manifest = publish_locally(wheels=[build], reports=[], site=site, now=NOW, progress=progress)
        published.append((manifest.wheels[0].sha256, len(progress.warned)))
    assert published == [(sha256_of(wheel), 0), (sha256_of(wheel), 0), (sha256_of(renamed), 1)]
    (aside,) = tmp_path.glob("site-until-*")
    assert sha256_of(aside / "files" / wheel.name) == sha256_of(wheel)
    assert sha256_of(site / "files" / wheel.name) == sha256_of(renamed)
