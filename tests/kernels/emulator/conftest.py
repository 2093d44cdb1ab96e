"""Compiles kernels for the CPU once a session."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kernels.table import select
from tests.kernels.emulator.emulator import Change, Kernel, compile_for_cpu

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(scope="session")
def emulated(tmp_path_factory: pytest.TempPathFactory, compiler_cache: Path) -> Callable[..., Kernel]:
    """A function that compiles the variant of a name, with an optional change."""
    made: dict[tuple[str, Change | None], Kernel] = {}

    def get(name: str, change: Change | None = None) -> Kernel:
        if (name, change) not in made:
            (variant,) = select([name])
            made[name, change] = compile_for_cpu(
                variant, tmp_path_factory.mktemp("emulated"), compiler_cache, change
            )
        return made[name, change]

    return get
