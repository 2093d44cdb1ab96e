"""A toolkit is found among unpacked wheels, and what is missing is named."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from kernels.build.toolkit import find_toolkit
from kernels.errors import ToolkitMissingError

if TYPE_CHECKING:
    from pathlib import Path

CUDA_12 = {
    "nvidia_cuda_nvrtc_cu12-12.8.93": (
        "nvidia/cuda_nvrtc/lib/libnvrtc.so.12",
        "nvidia/cuda_nvrtc/lib/libnvrtc-builtins.so.12.8",
    ),
    "nvidia_cuda_runtime_cu12-12.8.90": ("nvidia/cuda_runtime/include/cuda_runtime.h",),
    "nvidia_cuda_cccl_cu12-12.8.90": ("nvidia/cuda_cccl/include/cub/cub.cuh",),
    "nvidia_cutlass-4.2.0.0": ("cutlass_library/source/include/cutlass/cutlass.h",),
}
CUDA_13 = {
    "nvidia_cuda_nvrtc-13.0.88": (
        "nvidia/cu13/lib/libnvrtc.so.13",
        "nvidia/cu13/lib/libnvrtc-builtins.so.13.0",
    ),
    "nvidia_cuda_runtime-13.0.96": ("nvidia/cu13/include/cuda_runtime.h",),
    "nvidia_cuda_cccl-13.0.85": ("nvidia/cu13/include/cccl/cub/cub.cuh",),
    "nvidia_cuda_crt-13.0.88": ("nvidia/cu13/include/crt/host_defines.h",),
    "nvidia_cutlass-4.2.0.0": ("cutlass_library/source/include/cutlass/cutlass.h",),
}


def unpacked(site: Path, wheels: dict[str, tuple[str, ...]], digest: str = "sha256=abc") -> Path:
    """A folder with the files of wheels, each recorded with a digest."""
    for wheel, files in wheels.items():
        (site / f"{wheel}.dist-info").mkdir(parents=True)
        (site / f"{wheel}.dist-info" / "RECORD").write_text("".join(f"{name},{digest},1\n" for name in files))
        for name in files:
            (site / name).parent.mkdir(parents=True, exist_ok=True)
            (site / name).touch()
    return site


@pytest.mark.parametrize(("wheels", "name"), [(CUDA_12, "12.8"), (CUDA_13, "13.0")])
def test_the_parts_of_a_toolkit_are_found(tmp_path: Path, wheels: dict[str, tuple[str, ...]], name: str):
    toolkit = find_toolkit(unpacked(tmp_path, wheels))
    files = [path for paths in wheels.values() for path in paths]
    assert toolkit.name == name
    assert [str(path.relative_to(tmp_path)) for path in (toolkit.nvrtc, toolkit.builtins)] == files[:2]
    for header in files[2:]:
        assert any((tmp_path / header).is_relative_to(folder) for folder in toolkit.include_dirs)


def test_the_digest_follows_versions_and_not_the_place(tmp_path: Path):
    first = find_toolkit(unpacked(tmp_path / "one", CUDA_12)).digest
    assert find_toolkit(unpacked(tmp_path / "two", CUDA_12)).digest == first
    newer = {name.replace("12.8.93", "12.8.94"): files for name, files in CUDA_12.items()}
    assert find_toolkit(unpacked(tmp_path / "three", newer)).digest != first


@pytest.mark.parametrize("wheels", [CUDA_12, CUDA_13], ids=["12.8", "13.0"])
def test_the_digest_follows_every_byte_that_a_compile_may_read(
    tmp_path: Path, wheels: dict[str, tuple[str, ...]]
):
    """An edit that keeps size, time and RECORD is seen, and is gone with the edit."""
    site = unpacked(tmp_path, wheels)
    first = find_toolkit(site).digest
    for path in (site / name for names in wheels.values() for name in names):
        before = path.stat()
        path.write_text("1")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        one = find_toolkit(site).digest
        path.write_text("2")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert len({first, one, find_toolkit(site).digest}) == 3, path
        path.write_text("")
        assert find_toolkit(site).digest == first
    added = find_toolkit(site).include_dirs[0] / "added.h"
    added.touch()
    assert find_toolkit(site).digest != first


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        (
            "nvidia/cuda_nvrtc",
            r"holds no libnvrtc; it comes with the wheel nvidia-cuda-nvrtc-cu12 \(CUDA 12\)",
        ),
        (
            "nvidia/cuda_runtime",
            "has no nvidia/cuda_runtime/include; it comes with .* nvidia-cuda-runtime-cu12",
        ),
        ("nvidia/cuda_cccl", "has no nvidia/cuda_cccl/include; it comes with .* nvidia-cuda-cccl-cu12"),
        ("cutlass_library", "has no cutlass_library/source/include; it comes with the wheel nvidia-cutlass"),
        ("nvidia_cutlass-4.2.0.0.dist-info", "has 0 versions of nvidia_cutlass, expected one"),
    ],
)
def test_a_missing_part_is_named_with_its_wheel(tmp_path: Path, missing: str, message: str):
    shutil.rmtree(unpacked(tmp_path, CUDA_12) / missing)
    with pytest.raises(ToolkitMissingError, match=message):
        find_toolkit(tmp_path)


def test_two_releases_of_the_builtins_are_refused(tmp_path: Path):
    (unpacked(tmp_path, CUDA_12) / "nvidia/cuda_nvrtc/lib/libnvrtc-builtins.so.12.9").touch()
    with pytest.raises(
        ToolkitMissingError, match=r"has 2 files libnvrtc-builtins\.so\.<release>, expected one"
    ):
        find_toolkit(tmp_path)
