"""Compiles the doubles of CUDA's driver and of torch, for any target that the host libraries are built for.

Run as a program, `python -m tests.kernels.host.doubles TARGET DRIVER TORCH`, it fills two folders: one with
the double of the driver, one with those of torch's libraries.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.kernels.host.fake_driver import BWD_BYTES, FWD_BYTES, AppendParams, CombineParams

HERE = Path(__file__).parent
DRIVER_FLAGS = (
    f"-DFWD_BYTES={FWD_BYTES}",
    f"-DBWD_BYTES={BWD_BYTES}",
    f"-DCOMBINE_BYTES={ctypes.sizeof(CombineParams)}",
    f"-DAPPEND_BYTES={ctypes.sizeof(AppendParams)}",
)


def compile_double(source: str, output: Path, target: str, cache: Path, *flags: str) -> Path:
    """Compile a C or C++ source beside this file into a shared library of the output's name."""
    mode = "c++" if source.endswith(".cpp") else "cc"
    command = [
        *(sys.executable, "-m", "ziglang", mode, "-target", target, "-O2", "-fPIC"),
        *("-Wall", "-Wextra", "-Werror", "-shared", "-nostdlib++", "-rtlib=none"),
        *(f"-Wl,-soname,{output.name}", str(HERE / source), "-o", str(output), *flags),
    ]
    environment = {"ZIG_GLOBAL_CACHE_DIR": str(cache), "ZIG_LOCAL_CACHE_DIR": str(cache)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return output


def main(target: str, driver: str, torch: str) -> None:
    """Compile the three doubles."""
    with tempfile.TemporaryDirectory() as scratch:
        cache = Path(os.environ.get("ZIG_GLOBAL_CACHE_DIR", scratch))
        compile_double("fake_driver.c", Path(driver) / "libcuda.so.1", target, cache, *DRIVER_FLAGS)
        compile_double("fake_torch.c", Path(torch) / "libtorch_cpu.so", target, cache)
        compile_double("fake_torch_cuda.c", Path(torch) / "libtorch_cuda.so", target, cache)


if __name__ == "__main__":
    main(*sys.argv[1:])
