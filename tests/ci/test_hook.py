"""``pip install .`` from a clean copy of the tree: pip brings the compiler, the hook compiles.

The tests compile a few kernels, which FLASH_ATTN3_KERNELS names, as a user may.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import sysconfig
import tarfile
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import tomli

import hatch_build
from ci.platforms.venv import VirtualEnvironment
from ci.stages.audit import audit
from kernels.build.archive import normalised
from kernels.build.host import TARGETS, ZIG_VERSION
from kernels.build.version import RELEASE, version_of
from kernels.table import select
from matrix.model import read_matrix
from tests.conftest import FEW
from tests.tree_copy import copy_tree

if TYPE_CHECKING:
    from kernels.table import Variant

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "FLASH_ATTN3_KERNELS": " ".join(FEW)}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a clone holds."""
    copy = tmp_path_factory.mktemp("tree")
    copy_tree(copy)
    return copy


def test_pip_builds_with_what_the_farm_builds_with():
    """The pins that stand in two places agree: of the toolkit, of the other programs, and the platforms."""
    matrix = read_matrix()
    (toolkit,) = (found for found in matrix.toolkit if found.name == matrix.release.toolkit)
    project = tomli.loads((ROOT / "pyproject.toml").read_text())
    hook = project["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["custom"]
    requires = {*project["build-system"]["requires"], *hook["dependencies"]}
    pinned = {f"{wheel.name}=={wheel.version}" for wheel in toolkit.wheels}
    assert pinned < requires
    assert requires - pinned < set((ROOT / "requirements" / "farm.in").read_text().splitlines())
    assert f"ziglang=={ZIG_VERSION}" in requires
    platforms = {(p.name, p.target, p.tag) for p in matrix.platform if p.target is not None}
    assert platforms == {
        (f"linux_{target.split('-')[0]}", target, hatch_build._platform_tag(target)) for target in TARGETS
    }


def test_the_target_is_that_of_this_machine(monkeypatch: pytest.MonkeyPatch):
    for target, tag in zip(TARGETS, ("manylinux_2_17_x86_64", "manylinux_2_28_aarch64"), strict=True):
        monkeypatch.setattr(platform, "machine", lambda target=target: target.split("-")[0])
        assert hatch_build._native_target(TARGETS) == target
        assert hatch_build._platform_tag(target) == tag
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(OSError, match="compiles on Linux, x86_64 or aarch64; this is linux riscv64"):
        hatch_build._native_target(TARGETS)


def test_pip_compiles_and_installs_from_source(
    tree: Path, wheel: Path, few: tuple[Variant, ...], tmp_path: Path
):
    """What pip builds in its isolation is the farm's wheel, byte for byte."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    command = [*pip, "wheel", "--quiet", "--no-deps", "-w", tmp_path, tree]
    subprocess.run(command, check=True, env=ENVIRONMENT)
    built = tmp_path / wheel.name
    assert [check for check in audit(built, variants=few) if not check.ok] == []
    assert built.read_bytes() == wheel.read_bytes()
    target = tmp_path / "target"
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--target", target, built], check=True)
    assert json.loads((target / "flash_attn3" / "build.json").read_text())["version"] == version_of(few)


def contents(folder: Path) -> dict[Path, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(folder): path.read_bytes() for path in files}


def test_an_editable_install_adds_the_compiled_files_and_leaves_every_other_byte(
    wheel: Path, toolkit: Path, tmp_path: Path
):
    """Among them the user's files that no commit holds. So does the next install."""
    tree = tmp_path / "tree"  # of its own: the uncommitted files belong to no other test
    copy_tree(tree)
    (tree / "flash_attn3" / "lib").mkdir()
    for name in ("notes.txt", "work_in_progress.py", "lib/mine.txt"):
        (tree / "flash_attn3" / name).write_text("uncommitted")
    before = contents(tree)
    environment = VirtualEnvironment(tmp_path / "env")
    environment.create(Path(sys.executable))
    variables = {
        **ENVIRONMENT,
        "PYTHONPATH": os.pathsep.join([str(toolkit), sysconfig.get_path("purelib")]),
        "ZIG_GLOBAL_CACHE_DIR": str(toolkit.parents[1] / "zig"),
    }
    options = ["--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    with zipfile.ZipFile(wheel) as archive:
        compiled = {
            Path(name): archive.read(name)
            for name in archive.namelist()
            if name.startswith("flash_attn3/lib/") or name == "flash_attn3/build.json"
        }
    for _ in range(2):
        subprocess.run([*environment.pip, "install", *options, "-e", tree], check=True, env=variables)
        assert contents(tree) == {**before, **compiled}
    where = "import importlib.util as util; print(util.find_spec('flash_attn3').origin)"
    found = subprocess.run(
        [environment.python, "-I", "-c", where], check=True, capture_output=True, text=True
    )
    assert found.stdout.strip() == str(tree / "flash_attn3" / "__init__.py")


def backend(call: str, tree: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Call the build backend in a tree, as a frontend does."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", f"from hatchling.build import *; print({call})"]
    return subprocess.run(
        command, check=False, cwd=tree, capture_output=True, text=True, env={**inherited, **variables}
    )


@pytest.fixture(scope="module")
def unpacked(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist, unpacked. Making it needs the backend alone, and compiles nothing."""
    folder = tmp_path_factory.mktemp("sdist")
    start = time.monotonic()
    assert backend("get_requires_for_build_sdist()", tree).stdout == "[]\n"
    done = backend(f"build_sdist({str(folder)!r})", tree)
    assert (done.stdout, done.stderr) == (f"flash_attn3-{RELEASE}.tar.gz\n", "")
    assert time.monotonic() - start < 30
    sdist = folder / done.stdout.strip()
    assert sdist.stat().st_size < 2_000_000
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    return folder / f"flash_attn3-{RELEASE}"


def test_an_sdist_is_the_sources_without_results(tree: Path, unpacked: Path):
    ours, clones = contents(unpacked), contents(tree)
    del ours[Path("PKG-INFO")]
    assert ours.items() <= clones.items()
    left = {path.parts[:2] for path in clones.keys() - ours.keys()}
    assert {parts[0] for parts in left} <= {".ci", ".github", "validation", "flash_attn3"}
    assert not (unpacked / "flash_attn3" / "lib").exists()


def test_an_sdist_builds_the_wheel_of_the_clone(unpacked: Path, whole_wheel: Path, tmp_path: Path):
    payload = tmp_path / "payload"
    with zipfile.ZipFile(whole_wheel) as archive:
        for name in archive.namelist():
            if name.startswith("flash_attn3/lib/") or name == "flash_attn3/build.json":
                target = payload / Path(name).relative_to("flash_attn3")
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(archive.read(name))
    done = backend(f"build_wheel({str(tmp_path)!r})", unpacked, FLASH_ATTN3_PREBUILT=str(payload))
    assert done.stdout == f"{whole_wheel.name}\n", done.stderr
    assert normalised((tmp_path / whole_wheel.name).read_bytes()) == whole_wheel.read_bytes()


def test_a_few_kernels_of_an_sdist_cannot_take_the_name_of_the_release(unpacked: Path, tmp_path: Path):
    done = backend(f"build_wheel({str(tmp_path)!r})", unpacked, FLASH_ATTN3_KERNELS=" ".join(FEW))
    assert done.returncode != 0
    assert f"makes a trial wheel, {version_of(select(FEW))}; this tree is an unpacked sdist" in done.stderr


def test_a_pattern_that_names_no_kernel_says_which_are_near(tree: Path, toolkit: Path, tmp_path: Path):
    environment = {
        **os.environ,
        "PYTHONPATH": str(toolkit),
        "FLASH_ATTN3_KERNELS": "fwd_sm90_bf16_d129_full",
    }
    build = f"from hatchling.build import build_wheel; build_wheel({str(tmp_path)!r})"
    result = subprocess.run(
        [sys.executable, "-c", build], check=False, cwd=tree, env=environment, capture_output=True, text=True
    )
    assert result.returncode != 0
    assert "'fwd_sm90_bf16_d129_full', which matches no variant of the table" in result.stderr
    assert "fwd_sm90_bf16_d128_full" in result.stderr


def test_without_the_toolkit_the_error_says_what_to_install(tree: Path):
    """A build without isolation, in an environment that has the backend and nothing else."""
    build = "from hatchling.build import build_wheel; build_wheel('.')"
    result = subprocess.run(
        [sys.executable, "-c", build], check=False, cwd=tree, capture_output=True, text=True
    )
    assert result.returncode != 0
    assert "nvidia-cutlass is not installed in the build environment" in result.stderr
