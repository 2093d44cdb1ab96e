"""The build with the real compilers: equal bytes everywhere, recovery from kills, damage and full disks."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from packaging.metadata import Metadata

from ci.engine.cache import Cache
from ci.engine.local import LocalEngine
from ci.errors import BuildFailed, LimitBroken
from ci.files import sha256_of
from ci.stages.audit import audit
from ci.stages.build import MEMORY_BAR, Workshop, build
from ci.wheel.compat_wheel import make_compat_wheel
from ci.wheel.read import read_wheel
from kernels.build.compile import inputs_digest
from kernels.build.toolkit import find_toolkit
from kernels.table import VARIANTS
from matrix.cell import Artefact
from matrix.model import read_matrix
from tests.conftest import FEW
from tests.quiet import Quiet
from tests.tree_copy import copy_tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kernels.table import Variant

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[3]
ARTEFACT = Artefact("linux_x86_64", "12.8")


def farm(*arguments: str | Path) -> list[str]:
    """The command line of the farm, for this Python."""
    return [sys.executable, "-m", "ci", *map(str, arguments)]


def build_few(work: Path, *options: str) -> list[str]:
    """The command line that builds the wheel of a few kernels in ``work``."""
    only = [argument for pattern in FEW for argument in ("--only", pattern)]
    return farm("build", "--work", work, *only, *options)


def objects(work: Path) -> dict[Path, int]:
    """The finished cache objects and when each was written."""
    folder = work / "cache" / "objects"
    found = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    return {path: path.stat().st_mtime_ns for path in found}


def test_a_copy_of_the_tree_in_another_folder_gives_the_same_wheel(
    wheel: Path, tmp_path: Path, new_work: Callable[[str], Path]
):
    copy = tmp_path / "another folder"
    copy_tree(copy)
    work = new_work("work")
    subprocess.run(build_few(work), check=True, cwd=copy, env={**os.environ, "PYTHONPATH": str(copy)})
    (other,) = (work / "build").rglob("*.whl")
    assert other.name == wheel.name
    assert sha256_of(other) == sha256_of(wheel)


def test_a_killed_build_goes_on_where_it_was(
    wheel: Path, few: tuple[Variant, ...], new_work: Callable[[str], Path]
):
    work = new_work("work")
    process = subprocess.Popen(build_few(work, "--jobs", "1"), cwd=ROOT, start_new_session=True)
    with process:
        deadline = time.monotonic() + 120
        while not objects(work):
            assert process.poll() is None, "the build ended before it could be killed"
            assert time.monotonic() < deadline, "no compile ever finished"
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
    assert not list((work / "build").rglob("*.whl"))
    before = objects(work)
    assert 0 < len(before) < len(few) + 1
    done = subprocess.run(build_few(work), check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert before.items() <= objects(work).items()
    assert sha256_of(Path(done.stdout.strip())) == sha256_of(wheel)
    assert [path for path in work.rglob(".scratch-*") if "toolkits" not in path.parts] == []


def test_an_interrupted_build_is_one_error_and_can_go_on(new_work: Callable[[str], Path]):
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
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.splitlines()[-1].startswith("farm: error: interrupted")
    assert "Traceback" not in errors


def test_a_damaged_object_is_made_again_and_gives_the_same_wheel(
    wheel: Path, few: tuple[Variant, ...], toolkit: Path, new_work: Callable[[str], Path]
):
    work = new_work("work")
    shutil.copytree(toolkit.parents[1] / "objects", work / "cache" / "objects")
    damaged = Cache(work / "cache" / "objects").path(inputs_digest(few[0], find_toolkit(toolkit)))
    damaged.write_bytes(damaged.read_bytes()[:-7])
    before, progress = objects(work), Quiet()
    again = build(
        artefact=ARTEFACT, matrix=read_matrix(), workshop=Workshop(work), progress=progress, variants=few
    )
    (warning,) = progress.warned
    assert warning.startswith(f"{damaged}: the cached object is truncated or altered")
    assert [path for path, written in objects(work).items() if before[path] != written] == [damaged]
    assert sha256_of(again) == sha256_of(wheel)


def test_a_clock_that_jumps_changes_no_byte_and_ends_no_compile(
    wheel: Path, few: tuple[Variant, ...], toolkit: Path, new_work: Callable[[str], Path]
):
    """By sixty years back, and files have the times of that clock; most compiles come from the cache."""
    work, clock = new_work("work"), new_work("clock") / "time"
    shutil.copytree(toolkit.parents[1] / "objects", work / "cache" / "objects")
    for variant in few[:2]:
        Cache(work / "cache" / "objects").path(inputs_digest(variant, find_toolkit(toolkit))).unlink()
    before = objects(work)
    clock.write_text("2031-05-06 07:08:09")
    library = (
        find_spec("libfaketime").submodule_search_locations[0] + "/vendor/libfaketime/src/libfaketime.so.1"
    )
    preload = {"LD_PRELOAD": library, "FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_NO_CACHE": "1"}
    steady = {"FAKETIME_DONT_FAKE_MONOTONIC": "1", "FAKETIME_DISABLE_SHM": "1"}
    environment = {**os.environ, **preload, **steady}
    shown = subprocess.run(["date", "+%Y"], check=True, env=environment, capture_output=True, text=True)
    assert shown.stdout == "2031\n"
    process = subprocess.Popen(
        build_few(work, "--jobs", "1"), cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    )
    with process:
        while objects(work) == before and process.poll() is None:
            time.sleep(0.02)
        clock.write_text("1971-05-06 07:08:09")
        out, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    assert len(objects(work)) == len(before) + 2
    assert sha256_of(Path(out.strip())) == sha256_of(wheel)


def test_a_compile_that_takes_too_much_memory_is_one_error_and_what_was_made_is_kept(
    few: tuple[Variant, ...], new_work: Callable[[str], Path]
):
    work, matrix = new_work("work"), read_matrix()
    small = matrix.model_copy(update={"compile": matrix.compile.model_copy(update={"memory_limit_mb": 20})})
    with pytest.raises(BuildFailed, match=r"^[\w ]+: ended after .* its limit is 0\.02 GB") as caught:
        build(artefact=ARTEFACT, matrix=small, workshop=Workshop(work), progress=Quiet(), variants=few)
    assert caught.value.exit_code == LimitBroken.exit_code
    assert objects(work) == {}
    assert not list(work.rglob("*.whl"))


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
    old = small_disk / wheel.relative_to(toolkits.parents[1])
    old.parent.mkdir(parents=True)
    old.write_bytes(b"the wheel of before")
    build_there = build_few(small_disk)
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


def test_a_wheel_of_a_few_kernels_is_a_wheel_that_lies_apart(
    wheel: Path, few: tuple[Variant, ...], toolkits: Path
):
    folder = wheel.parents[1]
    assert folder.parent == toolkits.parents[1] / "build"
    assert folder.name.startswith(f"{ARTEFACT}-")
    assert [check for check in audit(wheel, variants=few) if not check.ok] == []
    resources = json.loads((folder / "resources.json").read_text())
    assert list(resources) == [variant.name for variant in few]
    assert all((report["registers"] or 0) > 0 for report in resources.values() if report["assembled"])
    assert [name for name, report in resources.items() if not report["assembled"]] == [
        variant.name for variant in few if variant.code == "ptx"
    ]


def test_a_build_reports_what_the_compiles_took(
    wheel: Path, few: tuple[Variant, ...], toolkits: Path, monkeypatch: pytest.MonkeyPatch
):
    """Every compile comes from the cache here, with the usage of the run that made it."""
    del wheel
    work, progress = toolkits.parents[1], Quiet()
    monkeypatch.setattr("ci.stages.build.CPU_BAR", 1)
    again = build(
        artefact=ARTEFACT, matrix=read_matrix(), workshop=Workshop(work), progress=progress, variants=few
    )
    cost = json.loads((again.parents[1] / "cost.json").read_text())
    assert cost["jobs"] == len(few) + 1
    assert cost["wheel_bytes"] == again.stat().st_size
    assert len(few) < cost["cpu_seconds"] < 300
    assert 50_000_000 < cost["memory_bytes"] < MEMORY_BAR
    assert cost["largest"] in {"host libraries", *(variant.name for variant in few)}
    assert any(f"{cost['cpu_seconds']:.0f} s of processor time" in line for line in progress.said)
    assert progress.warned == ["the compiles took more processor time or memory than the bar"]


def test_the_other_toolkit_compiles_every_source_for_every_target(toolkits: Path):
    """One variant of each source and target: the stage treats all variants of one alike."""
    variants = tuple({(variant.source, variant.sm): variant for variant in VARIANTS}.values())
    work = toolkits.parents[1]
    artefact = Artefact("linux_x86_64", "13.0")
    wheelhouse = os.environ.get("FARM_WHEELHOUSE")
    workshop = Workshop(work, Path(wheelhouse) if wheelhouse else None, LocalEngine(2))
    made = build(
        artefact=artefact, matrix=read_matrix(), workshop=workshop, progress=Quiet(), variants=variants
    )
    assert made.is_relative_to(work / "build")
    assert [check for check in audit(made, variants=variants) if not check.ok] == []
    resources = json.loads((made.parents[1] / "resources.json").read_text())
    assert set(resources) == {variant.name for variant in variants}
    assert {entry["toolkit"] for entry in resources.values()} == {"13.0"}


def test_the_metadata_is_what_an_index_shows_and_old_uploaders_read(whole_wheel: Path, tmp_path: Path):
    """twine 5 reads metadata up to 2.3, and `twine check --strict` wants a description and its type."""
    for built in (whole_wheel, make_compat_wheel(tmp_path, Quiet())):
        raw = read_wheel(built).metadata
        metadata = Metadata.from_email(raw)  # raises for a field that its version does not have
        assert raw.startswith(b"Metadata-Version: 2.3\n")
        assert metadata.description_content_type == "text/markdown"
        assert metadata.description is not None
        assert metadata.description.startswith(f"# {metadata.name}\n")
        assert metadata.summary
        assert "flash-attention" in (metadata.keywords or [])
        assert "Programming Language :: Python :: 3" in metadata.classifiers


@pytest.mark.slow
@pytest.mark.parametrize("name", ["manylinux2014_x86_64", "manylinux_2_17_x86_64"])
def test_pip_downloads_the_wheel_by_each_name_of_its_platform(whole_wheel: Path, tmp_path: Path, name: str):
    options = [
        "--quiet",
        "--no-deps",
        "--no-index",
        "--find-links",
        whole_wheel.parent,
        "--only-binary=:all:",
    ]
    pip = [
        sys.executable,
        "-m",
        "pip",
        "download",
        *options,
        "--platform",
        name,
        "-d",
        tmp_path,
        "flash-attn3",
    ]
    subprocess.run(pip, check=True, cwd=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [whole_wheel.name]
