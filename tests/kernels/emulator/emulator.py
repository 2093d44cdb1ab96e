"""Compiles kernel sources for the CPU and runs them thread by thread.

`gpu.h` and this folder's `arch/sm80` replace CUDA C++ and PTX; every other source file is compiled as it is.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kernels.build.compile import DEVICE_DIR, source_files

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from kernels.table.variant import Variant

HERE = Path(__file__).parent
_PARAMS = {
    "fwd": "fa3::FwdParams",
    "combine": "fa3::CombineParams",
    "decode": "fa3::DecodeParams",
    "bwd": "fa3::BwdParams",
    "append": "fa3::AppendParams",
}
# Operators whose parameters hold no tensor maps, which are aligned.
_WITHOUT_MAPS = ("append", "combine", "decode")
# Toolkit headers that the sources include; each is replaced by `gpu.h`.
_TOOLKIT_HEADERS = ("cute/config.hpp", "cutlass/cutlass.h")
# Texts that no macro can turn into C++ for the CPU: file name -> (text, replacement).
_TRANSLATED = {
    "math.cuh": (
        'asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));',
        "y = exp2f(x);",
    ),
    "decode.cu": ("extern __shared__", "extern"),
    "fwd_portable.cu": ("extern __shared__", "extern"),
    "bwd_portable.cu": ("extern __shared__", "extern"),
}


class EmulationError(AssertionError):
    """The kernel accessed forbidden memory, deadlocked, or had bank conflicts."""


@dataclass(frozen=True)
class Change:
    """Replacement of a text that occurs once in one source file."""

    file: str
    old: str
    new: str

    def apply(self, text: str) -> str:
        assert text.count(self.old) == 1, f"{self.file} has {text.count(self.old)} of: {self.old}"
        return text.replace(self.old, self.new)


@dataclass(frozen=True)
class Program:
    """Compiled sources and the size of their thread blocks."""

    name: str
    library: ctypes.CDLL
    threads: int
    smem_bytes: int

    def launch(
        self, params: ctypes.Structure, grid: int, alignment: int = 8, *, backwards: bool = False
    ) -> None:
        """Run all thread blocks, the last one first if `backwards`.

        `alignment`: bytes, of the parameters in C++; ctypes cannot express it.

        Raises:
            EmulationError: A thread accessed memory outside its block, the threads deadlocked, or an ldmatrix
                had bank conflicts.
        """
        size = -(-ctypes.sizeof(params) // alignment) * alignment
        conflicts = ctypes.c_int()
        failure = self.library.emulate(
            bytes(params).ljust(size, b"\0"),
            ctypes.c_size_t(size),
            grid,
            self.threads,
            ctypes.c_size_t(self.smem_bytes),
            int(backwards),
            ctypes.byref(conflicts),
        )
        if failure is not None:
            raise EmulationError(f"{self.name}: {failure.decode()}")
        if conflicts.value:
            raise EmulationError(f"{self.name}: {conflicts.value} bank conflicts of ldmatrix")


@dataclass(frozen=True)
class Kernel:
    """A compiled kernel."""

    variant: Variant
    program: Program

    def launch(self, params: ctypes.Structure, grid: int, *, backwards: bool = False) -> None:
        """Run all thread blocks; raise like `Program.launch`."""
        alignment = 8 if self.variant.op in _WITHOUT_MAPS else 64
        self.program.launch(params, grid, alignment, backwards=backwards)


def compile_for_cpu(variant: Variant, folder: Path, cache: Path, change: Change | None = None) -> Kernel:
    """Compile a variant in an empty folder, with an optional change. `cache`: the compiler's cache folder."""
    macros = {"SOURCE": f'"{variant.source}"', "PARAMS": _PARAMS[variant.op], **dict(variant.macros)}
    library = compile_sources(source_files(variant), macros, folder, cache, change)
    return Kernel(variant, Program(variant.name, library, variant.threads, variant.smem_bytes))


def compile_sources(
    sources: Iterable[Path],
    macros: Mapping[str, str],
    folder: Path,
    cache: Path,
    change: Change | None = None,
) -> ctypes.CDLL:
    """Compile `emulator.cpp` with copies of the sources, after an optional change."""
    applied = change is None
    for path in sources:
        text = path.read_text(encoding="utf-8")
        if path.name in _TRANSLATED:
            text = Change(path.name, *_TRANSLATED[path.name]).apply(text)
        if change is not None and path.name == change.file:
            text, applied = change.apply(text), True
        copy = folder / (path.relative_to(DEVICE_DIR) if path.is_relative_to(DEVICE_DIR) else path.name)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(text, encoding="utf-8")
    assert applied, f"no source file is named {change.file if change else None}"
    for name in ("gpu.h", "arch/sm80/element.cuh", "arch/sm80/instructions.cuh", "emulator.cpp"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((HERE / name).read_bytes())
    for name in _TOOLKIT_HEADERS:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text('#include "gpu.h"\n', encoding="utf-8")
    library = folder / "kernel.so"
    command = [
        *(sys.executable, "-m", "ziglang", "c++", "-std=c++17", "-O2", "-shared", "-fPIC", "-Werror"),
        *("-nostdlib++", "-fno-exceptions", "-fno-rtti", "-D__CUDACC_RTC__"),
        *("-Wno-pass-failed",),  # of loops that the GPU unrolls
        f"-I{folder}",
        *(f"-D{name}={value}" for name, value in macros.items()),
        *(str(folder / "emulator.cpp"), "-o", str(library)),
    ]
    environment = {
        **os.environ,
        "ZIG_GLOBAL_CACHE_DIR": str(cache),
        "ZIG_LOCAL_CACHE_DIR": str(folder / "cache"),
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded = ctypes.CDLL(str(library))
    loaded.emulate.restype = ctypes.c_char_p
    return loaded
