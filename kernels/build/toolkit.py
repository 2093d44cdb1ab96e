"""Finds a CUDA compiler and its headers among unpacked or installed wheels; needs no CUDA installation."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from kernels.errors import ToolkitMissingError

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True)
class Toolkit:
    """A compiler and its headers.

    Attributes:
        name: CUDA release, `12.8`.
        nvrtc: The compiler library.
        builtins: The library that the compiler opens by name; it has to be loaded first.
        include_dirs: CUDA runtime, CCCL and CUTLASS headers.
        wheels: names of the metadata folders of the wheels, which have their versions.
    """

    name: str
    nvrtc: Path
    builtins: Path
    include_dirs: tuple[Path, ...]
    wheels: tuple[str, ...]

    @cached_property
    def digest(self) -> str:
        """sha256, in hex, of the versions of the wheels and of every byte that a compile may read.

        The hashes in RECORD would be faster to read, but say nothing of a file that was edited later. Reading
        all files, 150 MB, takes a third of a second, once for each toolkit object.
        """
        state = hashlib.sha256("\n".join(self.wheels).encode())
        _add_files(state, self.nvrtc.parent, (self.nvrtc, self.builtins))
        for folder in self.include_dirs:
            found = (Path(root) / name for root, _, names in os.walk(folder) for name in names)
            _add_files(state, folder, sorted(found))
        return state.hexdigest()


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
        wheels=_wheels(site, layout),
    )


def _wheels(site: Path, layout: _Layout) -> tuple[str, ...]:
    names = []
    for wheel in layout.wheels:
        found = sorted(site.glob(f"{wheel}-*.dist-info"))
        if len(found) != 1:
            raise ToolkitMissingError(f"toolkit: {site} has {len(found)} versions of {wheel}, expected one")
        names.append(found[0].name)
    return tuple(names)


def _add_files(state: hashlib._Hash, root: Path, files: Iterable[Path]) -> None:
    for path in files:
        data = path.read_bytes()
        state.update(f"\n{path.relative_to(root).as_posix()} {len(data)}\n".encode())
        state.update(data)
