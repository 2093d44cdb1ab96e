"""The build with the real compilers: same bytes anywhere, and no harm from kills, damage or a full disk."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ci.build import Workshop, build, compile_only
from ci.files import sha256_of
from kernels.variants import VARIANTS
from matrix.cell import Artefact
from matrix.model import read_matrix
from tests.quiet import Quiet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
ARTEFACT = Artefact("linux_x86_64", "12.8")


def farm(*arguments: str | Path) -> list[str]:
    """The command line of the farm, for this Python."""
    return [sys.executable, "-m", "ci", *map(str, arguments)]


def objects(work: Path) -> dict[Path, int]:
    """The finished cache objects and when each was written."""
    folder = work / "cache" / "objects"
    found = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    return {path: path.stat().st_mtime_ns for path in found}


def test_a_copy_of_the_tree_in_another_folder_gives_the_same_wheel(
    wheel: Path, tmp_path: Path, new_work: Callable[[str], Path]
):
    files = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    copy = tmp_path / "another folder"
    for name in filter(None, files.stdout.split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, copy / name)
    work = new_work("work")
    subprocess.run(
        farm("build", "--work", work), check=True, cwd=copy, env={**os.environ, "PYTHONPATH": str(copy)}
    )
    (other,) = (work / "dist").glob("*.whl")
    assert other.name == wheel.name
    assert sha256_of(other) == sha256_of(wheel)


def test_a_killed_build_goes_on_where_it_was(wheel: Path, new_work: Callable[[str], Path]):
    work = new_work("work")
    process = subprocess.Popen(farm("build", "--jobs", "1", "--work", work), cwd=ROOT, start_new_session=True)
    with process:
        deadline = time.monotonic() + 120
        while not objects(work):
            assert process.poll() is None, "the build ended before it could be killed"
            assert time.monotonic() < deadline, "no compile ever finished"
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
    assert not list((work / "dist").glob("*"))
    before = objects(work)
    assert 0 < len(before) < len(VARIANTS) + 1
    subprocess.run(farm("build", "--work", work), check=True, cwd=ROOT)
    assert before.items() <= objects(work).items()
    assert sha256_of(work / "dist" / wheel.name) == sha256_of(wheel)
    assert [path for path in work.rglob(".scratch-*") if "toolkits" not in path.parts] == []


def test_an_interrupted_build_says_so_and_can_go_on(new_work: Callable[[str], Path]):
    work = new_work("work")
    process = subprocess.Popen(
        farm("build", "--jobs", "1", "--work", work),
        cwd=ROOT,
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        while not list((work / "build").rglob("build.ninja")):
            time.sleep(0.02)
        time.sleep(0.2)
        os.killpg(process.pid, signal.SIGINT)  # what Ctrl-C sends
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.splitlines()[-1].startswith("farm: error: interrupted")
    assert "Traceback" not in said


def test_a_damaged_object_is_made_again_and_gives_the_same_wheel(wheel: Path, toolkits: Path, tmp_path: Path):
    work = tmp_path / "work"
    shutil.copytree(toolkits.parent / "objects", work / "cache" / "objects")
    (work / "cache" / "toolkits").symlink_to(toolkits)
    smallest = min(objects(work), key=lambda path: path.stat().st_size)
    smallest.write_bytes(smallest.read_bytes()[:-7])
    progress = Quiet()
    again = build(artefact=ARTEFACT, matrix=read_matrix(), workshop=Workshop(work), progress=progress)
    used = [warning for warning in progress.warned if str(smallest) in warning]
    stale = not used  # an object of an older state of the tree: nothing asked for it
    assert stale or "truncated or altered" in used[0]
    assert sha256_of(again) == sha256_of(wheel)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk with 300 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)]
    if (
        shutil.which("mount") is None
        or subprocess.run(mount, check=False, capture_output=True).returncode != 0
    ):
        pytest.skip("a small disk cannot be mounted: that needs root")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_is_one_error_and_what_was_good_stays(wheel: Path, toolkits: Path, small_disk: Path):
    (small_disk / "cache").mkdir()
    (small_disk / "cache" / "toolkits").symlink_to(toolkits)
    (small_disk / "dist").mkdir()
    old = small_disk / "dist" / wheel.name
    old.write_bytes(b"the wheel of before")
    build_there = farm("build", "--work", small_disk)
    result = subprocess.run(build_there, check=False, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 26
    line = result.stderr.splitlines()[-1]
    assert line.startswith("farm: error: ")
    assert "Traceback" not in result.stderr
    assert str(small_disk) in line
    assert "no room left" in line
    assert old.read_bytes() == b"the wheel of before"
    subprocess.run(["mount", "-o", "remount,size=200m", str(small_disk)], check=True)
    subprocess.run(build_there, check=True, cwd=ROOT)
    assert sha256_of(old) == sha256_of(wheel)


def test_kernels_can_be_compiled_alone(new_work: Callable[[str], Path]):
    work = new_work("work")
    workshop = Workshop(work, processors=2)
    report = compile_only(
        variants=VARIANTS[:1], artefact=ARTEFACT, matrix=read_matrix(), workshop=workshop, progress=Quiet()
    )
    resources = json.loads(report.read_text())
    assert list(resources) == [VARIANTS[0].name]
    assert resources[VARIANTS[0].name]["registers"] > 0
    assert len(objects(work)) == 1


def test_the_other_toolkit_compiles_the_same_kernels(toolkits: Path):
    work = toolkits.parents[1]
    artefact = Artefact("linux_x86_64", "13.0")
    wheelhouse = os.environ.get("FARM_WHEELHOUSE")
    workshop = Workshop(work, Path(wheelhouse) if wheelhouse else None, 2)
    report = compile_only(
        variants=VARIANTS, artefact=artefact, matrix=read_matrix(), workshop=workshop, progress=Quiet()
    )
    resources = json.loads(report.read_text())
    assert set(resources) == {variant.name for variant in VARIANTS}
    assert {entry["toolkit"] for entry in resources.values()} == {"13.0"}
