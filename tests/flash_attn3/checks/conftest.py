"""The fake driver of the host library's tests: with it the real library chooses kernels on this machine."""

from __future__ import annotations

from tests.kernels.conftest import compiler_cache
from tests.kernels.host.conftest import compile_double_, fake_driver_folder

__all__ = ["compile_double_", "compiler_cache", "fake_driver_folder"]
