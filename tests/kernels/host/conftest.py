"""Builds the host libraries and the test doubles once a session, with the compiler that the product uses."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

import pytest

from kernels.build.host import build_host
from tests.kernels.host.doubles import DRIVER_FLAGS, compile_double
from tests.kernels.host.host_api import KERNELS, Api, pack_bytes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

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


@pytest.fixture(scope="session", name="compile_double")
def compile_double_(tmp_path_factory: pytest.TempPathFactory, compiler_cache: Path) -> Callable[..., Path]:
    """A function that makes a shared library `name` from a C or C++ source beside this file."""

    def compile_(source: str, name: str, *flags: str) -> Path:
        output = tmp_path_factory.mktemp("double") / name
        return compile_double(source, output, NATIVE_TARGET, compiler_cache, *flags)

    return compile_


@pytest.fixture(scope="session")
def fake_driver_folder(compile_double: Callable[..., Path]) -> Path:
    return compile_double("fake_driver.c", "libcuda.so.1", *DRIVER_FLAGS).parent
