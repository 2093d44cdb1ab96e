"""Builds the two host libraries with the C++ compiler of the `ziglang` wheel, for any Linux from any Linux.

Run as a program: `python -m kernels.build.host --target x86_64-linux-gnu.2.17 --out DIR --version 0.1.0`.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kernels.errors import KernelsError

if TYPE_CHECKING:
    from collections.abc import Sequence

HOST_DIR = Path(__file__).parents[1] / "host"
DEVICE_DIR = HOST_DIR.parent / "device"  # its `params` are structures that host and kernels share
ZIG_VERSION = "0.14.1"
TARGETS = ("x86_64-linux-gnu.2.17", "aarch64-linux-gnu.2.28")

# No exceptions and no standard library besides its headers: compiling libc++ takes a minute and would put a
# second C++ runtime beside torch's. Unwind tables stay: torch's exceptions pass through the operator.
COMPILE_FLAGS = (
    *("-std=c++17", "-O2", "-g0", "-fPIC", "-fvisibility=hidden"),
    *("-fno-exceptions", "-fno-rtti", "-fno-threadsafe-statics", "-fasynchronous-unwind-tables"),
    "-fno-math-errno",  # a square root is an instruction
    *("-Wall", "-Wextra", "-Wshadow", "-Wconversion", "-Werror"),
)
# No compiler runtime: nothing here needs one, and building it takes longer than all the rest.
LINK_FLAGS = ("-shared", "-O2", "-s", "-rtlib=none", "-Wl,--build-id=none", "-Wl,-z,nodelete")
_VERSION = re.compile(r"[0-9A-Za-z.+!-]+")


class HostBuildError(KernelsError):
    """The host libraries could not be built."""

    exit_code = 14


@dataclass(frozen=True)
class Library:
    """A shared library: its file name, glob patterns of its sources in a folder, and how it is linked."""

    name: str
    patterns: tuple[str, ...]
    excluded: tuple[str, ...]
    link_flags: tuple[str, ...]

    def sources(self, folder: Path) -> tuple[str, ...]:
        """Return the sources in a folder of sources, relative to it, sorted."""
        found = {path for pattern in self.patterns for path in folder.glob(pattern)}
        found -= {path for pattern in self.excluded for path in folder.glob(pattern)}
        return tuple(sorted(path.relative_to(folder).as_posix() for path in found))


# A new operator adds files to `ops`: OP.cpp for the runtime, OP_torch.cpp for torch, OP_check.cpp for both.
RUNTIME = Library(
    name="libflash_attn3.so",
    patterns=("*.cpp", "system/*.cpp", "pack/*.cpp", "attention/*.cpp", "ops/*.cpp"),
    excluded=("ops/*_torch.cpp",),
    link_flags=("-Wl,-z,defs",),
)
# Without libtorch_cpu.so among its needed libraries the torch functions are not found: Python loads torch's
# libraries in a scope of their own. It is linked against an empty library of that name, not against torch.
TORCH = Library(
    name="libflash_attn3_torch.so",
    patterns=(
        *("torch/*.cpp", "ops/*_torch.cpp", "ops/*_check.cpp"),
        *("system/error.cpp", "system/library.cpp"),
        *("attention/check.cpp", "attention/layout.cpp", "attention/problem.cpp"),
    ),
    excluded=(),
    link_flags=("-Wl,--no-as-needed", "-Wl,-rpath,$ORIGIN", "-L.", "-lflash_attn3", "-ltorch_cpu"),
)


def build_host(target: str, out: Path, version: str) -> tuple[Path, ...]:
    """Build `libflash_attn3.so` and `libflash_attn3_torch.so`.

    The bytes depend on the sources, the target and the version only. The compiler's own cache is
    `ZIG_GLOBAL_CACHE_DIR` when that is set, and is thrown away when not.

    Args:
        target: One of `TARGETS`; the number is the oldest glibc that the libraries run on.
        out: Folder for the libraries; made if missing, written only when both are built.
        version: What `fa3_version()` returns.

    Returns:
        The paths of the two libraries.

    Raises:
        HostBuildError: The target or version is not valid, the compiler is missing or refuses a source.
    """
    if target not in TARGETS:
        raise HostBuildError(f"target {target!r} is unknown; it should be one of {', '.join(TARGETS)}")
    if not _VERSION.fullmatch(version):
        raise HostBuildError(f"version {version!r} should be made of letters, digits and . + ! -")
    _require_zig()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".build-") as work:
        compiler = _Compiler(target, Path(work))
        compiler.compile(sorted({*RUNTIME.sources(HOST_DIR), *TORCH.sources(HOST_DIR)}), version)
        compiler.link_empty("libtorch_cpu.so")
        built = [compiler.link(library) for library in (RUNTIME, TORCH)]
        return tuple(path.replace(out / path.name) for path in built)


def _require_zig() -> None:
    try:
        found = importlib.metadata.version("ziglang")
    except importlib.metadata.PackageNotFoundError:
        raise HostBuildError(f"the compiler is missing; install ziglang=={ZIG_VERSION}") from None
    if found != ZIG_VERSION:
        raise HostBuildError(f"ziglang is {found}; it should be {ZIG_VERSION}, which decides the bytes")


@dataclass(frozen=True)
class _Compiler:
    """The compiler for one target, working in one folder."""

    target: str
    work: Path

    def compile(self, sources: Sequence[str], version: str) -> None:
        define = f'-DFA3_VERSION="{version}"'

        def compile_one(source: str) -> None:
            output = self.work / f"{source}.o"
            output.parent.mkdir(parents=True, exist_ok=True)
            includes = ("-I.", f"-I{DEVICE_DIR}")
            self._run("c++", *COMPILE_FLAGS, *includes, define, "-c", source, "-o", str(output), cwd=HOST_DIR)

        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            list(pool.map(compile_one, sources))

    def link(self, library: Library) -> Path:
        objects = [f"{source}.o" for source in library.sources(HOST_DIR)]
        return self._link(library.name, *objects, *library.link_flags)

    def link_empty(self, name: str) -> Path:
        (self.work / "empty.c").write_text("")
        return self._link(name, "empty.c")

    def _link(self, name: str, *arguments: str) -> Path:
        # `zig cc`, not `zig c++`: the latter would compile and link libc++.
        self._run("cc", *LINK_FLAGS, f"-Wl,-soname,{name}", *arguments, "-o", name, cwd=self.work)
        return self.work / name

    def _run(self, mode: str, *arguments: str, cwd: Path) -> None:
        cache = str(self.work / "cache")
        environment = {"ZIG_GLOBAL_CACHE_DIR": cache, **os.environ, "ZIG_LOCAL_CACHE_DIR": cache}
        command = [sys.executable, "-m", "ziglang", mode, "-target", self.target, *arguments]
        done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise HostBuildError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr.strip()}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m kernels.build.host", description=__doc__)
    parser.add_argument("--target", required=True, help=" or ".join(TARGETS))
    parser.add_argument("--out", required=True, type=Path, help="folder for the libraries")
    parser.add_argument("--version", required=True, help="version that the libraries report")
    options = parser.parse_args(arguments)
    try:
        paths = build_host(options.target, options.out, options.version)
    except KernelsError as error:
        print(f"kernels.build.host: error: {error}", file=sys.stderr)
        return error.exit_code
    print(*paths, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
