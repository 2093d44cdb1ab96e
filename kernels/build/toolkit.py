"""Finds a CUDA compiler and its headers among unpacked or installed wheels; needs no CUDA installation."""

from __future__ import annotations

import csv
import hashlib
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from kernels.errors import ToolkitMissingError


@dataclass(frozen=True)
class Toolkit:
    """A compiler and its headers.

    Attributes:
        name: CUDA release, `12.8`.
        nvrtc: The compiler library.
        builtins: The library that the compiler opens by name; it has to be loaded first.
        include_dirs: CUDA runtime, CCCL and CUTLASS headers.
        digest: sha256 of the versions of the wheels and of the compiler's recorded hashes.
    """

    name: str
    nvrtc: Path
    builtins: Path
    include_dirs: tuple[Path, ...]
    digest: str


@dataclass(frozen=True)
class _Layout:
    """Paths and names of the wheels of one major release of CUDA."""

    nvrtc: str
    includes: tuple[tuple[str, str], ...]  # folder, wheel that contains it
    wheels: tuple[str, ...]


_CUTLASS = ("cutlass_library/source/include", "nvidia-cutlass")
_LAYOUTS = (
    _Layout(
        nvrtc="nvidia/cuda_nvrtc/lib/libnvrtc.so.12",
        includes=(
            ("nvidia/cuda_runtime/include", "nvidia-cuda-runtime-cu12"),
            ("nvidia/cuda_cccl/include", "nvidia-cuda-cccl-cu12"),
            _CUTLASS,
        ),
        wheels=(
            "nvidia_cuda_nvrtc_cu12",
            "nvidia_cuda_runtime_cu12",
            "nvidia_cuda_cccl_cu12",
            "nvidia_cutlass",
        ),
    ),
    _Layout(
        nvrtc="nvidia/cu13/lib/libnvrtc.so.13",
        includes=(
            ("nvidia/cu13/include", "nvidia-cuda-runtime"),
            ("nvidia/cu13/include/cccl", "nvidia-cuda-cccl"),
            _CUTLASS,
        ),
        wheels=(
            "nvidia_cuda_nvrtc",
            "nvidia_cuda_runtime",
            "nvidia_cuda_cccl",
            "nvidia_cuda_crt",
            "nvidia_cutlass",
        ),
    ),
)
_BUILTINS = re.compile(r"libnvrtc-builtins\.so\.(\d+\.\d+)")


@lru_cache(maxsize=8)
def find_toolkit(site: Path) -> Toolkit:
    """Find the toolkit in a folder of unpacked wheels, or in a `site-packages`.

    Raises:
        ToolkitMissingError: A part is missing; the message names the wheel that contains it.
    """
    layout = next((layout for layout in _LAYOUTS if (site / layout.nvrtc).is_file()), None)
    if layout is None:
        raise ToolkitMissingError(
            f"toolkit: {site} holds no libnvrtc; it comes with the wheel nvidia-cuda-nvrtc-cu12 (CUDA 12)"
            " or nvidia-cuda-nvrtc (CUDA 13)"
        )
    for folder, wheel in layout.includes:
        if not (site / folder).is_dir():
            raise ToolkitMissingError(f"toolkit: {site} has no {folder}; it comes with the wheel {wheel}")
    nvrtc = site / layout.nvrtc
    builtins = sorted(path for path in nvrtc.parent.iterdir() if _BUILTINS.fullmatch(path.name))
    if len(builtins) != 1:
        raise ToolkitMissingError(
            f"toolkit: {nvrtc.parent} has {len(builtins)} files libnvrtc-builtins.so.<release>, expected one"
        )
    release = builtins[0].name.removeprefix("libnvrtc-builtins.so.")
    return Toolkit(
        name=release,
        nvrtc=nvrtc,
        builtins=builtins[0],
        include_dirs=tuple(site / folder for folder, _ in layout.includes),
        digest=_digest(site, layout),
    )


def _digest(site: Path, layout: _Layout) -> str:
    """Hash the versions of the wheels and the hashes in RECORD of the compiler, which has 100 MB itself."""
    state = hashlib.sha256()
    for wheel in layout.wheels:
        found = sorted(site.glob(f"{wheel}-*.dist-info"))
        if len(found) != 1:
            raise ToolkitMissingError(f"toolkit: {site} has {len(found)} versions of {wheel}, expected one")
        state.update(f"{found[0].name}\n".encode())
        with (found[0] / "RECORD").open(encoding="utf-8", newline="") as record:
            for path, digest, _ in csv.reader(record):
                if "/libnvrtc" in path:
                    state.update(f"{Path(path).name} {digest}\n".encode())
    return state.hexdigest()
