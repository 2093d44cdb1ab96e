"""Builds the host libraries and the test doubles once a session, with the compiler that the product uses."""

from __future__ import annotations

import ctypes
import platform
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kernels.build.host import build_host
from tests.kernels.host.fake_driver import PARAMS_BYTES, CombineParams
from tests.kernels.host.host_api import KERNELS, Api, pack_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).parent
VERSION = "0.1.0"
NATIVE_TARGET = {
    "x86_64": "x86_64-linux-gnu.2.17",
    "aarch64": "aarch64-linux-gnu.2.28",
}[platform.machine()]


@pytest.fixture(scope="session")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with both libraries for this machine and no pack."""
    folder = tmp_path_factory.mktemp("lib")
    build_host(NATIVE_TARGET, folder, VERSION)
    return folder


@pytest.fixture(scope="session")
def api(libraries: Path) -> Api:
    return Api(libraries / "libflash_attn3.so")


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    path = tmp_path / "kernels.fa3pack"
    path.write_bytes(pack_bytes(KERNELS))
    return path


@pytest.fixture(scope="session")
def compile_double(tmp_path_factory: pytest.TempPathFactory, compiler_cache: Path) -> Callable[..., Path]:
    """A function that makes a shared library `name` from a C or C++ source beside this file."""

    def compile_(source: str, name: str, *flags: str) -> Path:
        output = tmp_path_factory.mktemp("double") / name
        mode = "c++" if source.endswith(".cpp") else "cc"
        command = [
            *(sys.executable, "-m", "ziglang", mode, "-target", NATIVE_TARGET, "-O2", "-fPIC"),
            *("-Wall", "-Wextra", "-Werror", "-shared", "-nostdlib++", "-rtlib=none", f"-Wl,-soname,{name}"),
            *(str(HERE / source), "-o", str(output), *flags),
        ]
        environment = {
            "ZIG_GLOBAL_CACHE_DIR": str(compiler_cache),
            "ZIG_LOCAL_CACHE_DIR": str(compiler_cache),
        }
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return output

    return compile_


@pytest.fixture(scope="session")
def fake_driver_folder(compile_double: Callable[..., Path]) -> Path:
    sizes = (f"-DPARAMS_BYTES={PARAMS_BYTES}", f"-DCOMBINE_BYTES={ctypes.sizeof(CombineParams)}")
    return compile_double("fake_driver.c", "libcuda.so.1", *sizes).parent
