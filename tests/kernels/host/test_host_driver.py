"""The runtime against a driver double: what it asks of CUDA, and what it does when CUDA refuses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kernels.host.build import HOST_DIR
from tests.kernels.host import scenarios
from tests.kernels.host.scenarios import SCENARIOS

REPOSITORY = Path(__file__).parents[3]


def test_declarations_are_cuda_s_own(toolkits: Path, tmp_path: Path, compiler_cache: Path) -> None:
    """driver.h restates a little of cuda.h: constants, layouts and how each function takes its arguments."""
    include = [HOST_DIR, next(toolkits.glob("12.8*/nvidia/cuda_runtime/include"))]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "ziglang", "c++", "-std=c++17", *(f"-I{folder}" for folder in include)),
            *("-c", str(Path(__file__).with_name("driver_abi.cpp")), "-o", str(tmp_path / "driver_abi.o")),
        ],
        env={"ZIG_GLOBAL_CACHE_DIR": str(compiler_cache), "ZIG_LOCAL_CACHE_DIR": str(compiler_cache)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("name", SCENARIOS)
def test_scenario(name: str, libraries: Path, fake_driver_folder: Path, pack: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", scenarios.__name__, name, str(libraries / "libflash_attn3.so"), str(pack)],
        cwd=REPOSITORY,
        env={**os.environ, "LD_LIBRARY_PATH": str(fake_driver_folder)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
