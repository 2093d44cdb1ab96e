"""``pip install .`` from a clean copy of the tree: pip brings the compiler, the hook compiles.

The tests compile a few kernels, which FLASH_ATTN3_KERNELS names, as a user may.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import tomli

import hatch_build
from ci.stages.audit import audit
from kernels.build.host import TARGETS, ZIG_VERSION
from kernels.build.version import version_of
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


def test_an_editable_install_compiles_into_the_tree(tree: Path, wheel: Path, toolkit: Path, tmp_path: Path):
    environment = {
        **ENVIRONMENT,
        "PYTHONPATH": str(toolkit),
        "ZIG_GLOBAL_CACHE_DIR": str(toolkit.parents[1] / "zig"),
    }
    build = f"from hatchling.build import build_editable; build_editable({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", build], check=True, cwd=tree, env=environment)
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.startswith("flash_attn3/lib/"):
                assert (tree / name).read_bytes() == archive.read(name)
    for path in (ROOT / "flash_attn3").rglob("*.py"):  # the sources beside them stay
        assert (tree / path.relative_to(ROOT)).read_bytes() == path.read_bytes()
    (editable,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(editable) as archive:
        (path,) = [name for name in archive.namelist() if name.endswith(".pth")]
        assert archive.read(path).decode().strip() == str(tree)


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
