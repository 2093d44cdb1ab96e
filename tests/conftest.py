"""Fixtures of several folders: a work folder with the toolkit, and wheels of this tree.

Most tests use a wheel of a few kernels. The wheel of all kernels is compiled once, into the tree's own cache.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ci.engine.local import LocalEngine
from ci.engine.toolkits import fetch_toolkit
from ci.stages.build import Workshop, build
from kernels.table import VARIANTS, select
from matrix.cell import Artefact
from matrix.model import read_matrix
from tests.quiet import Quiet

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kernels.table import Variant

ROOT = Path(__file__).parents[1]
FEW = (
    "fwd_sm90_*_d64_full",
    "fwd_portable_sm86_bf16_d64",
    "fwd_portable_ptx80_bf16_d64",
    "append_sm80_bf16",
    "combine_sm80",
)
"""Patterns of the variants that most tests compile: exact, portable and PTX, of every operator."""
WHEELHOUSE = Path(os.environ["FARM_WHEELHOUSE"]) if "FARM_WHEELHOUSE" in os.environ else None


@pytest.fixture(scope="session")
def toolkit() -> Path:
    """The folder of the unpacked toolkit 12.8, in the tree's own cache, so that it is downloaded once."""
    matrix, cache = read_matrix(), ROOT / ".farm" / "cache"
    return fetch_toolkit(matrix=matrix, name="12.8", cache=cache, wheelhouse=WHEELHOUSE, progress=Quiet())


@pytest.fixture(scope="session")
def toolkits(toolkit: Path) -> Path:
    """The folder of all toolkits."""
    return toolkit.parent


@pytest.fixture
def new_work(toolkits: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A function that makes a work folder with the toolkits and an empty cache."""

    def make(name: str) -> Path:
        cache = tmp_path / name / "cache"
        cache.mkdir(parents=True)
        (cache / "toolkits").symlink_to(toolkits)
        return tmp_path / name

    return make


def _built(toolkits: Path, variants: Sequence[Variant]) -> Path:
    workshop = Workshop(toolkits.parents[1], engine=LocalEngine(processors=2))
    artefact = Artefact("linux_x86_64", "12.8")
    return build(
        artefact=artefact, matrix=read_matrix(), workshop=workshop, progress=Quiet(), variants=variants
    )


@pytest.fixture(scope="session")
def few() -> tuple[Variant, ...]:
    """A few variants of the kernel table that compile in seconds."""
    return select(FEW)


@pytest.fixture(scope="session")
def wheel(toolkits: Path, few: tuple[Variant, ...]) -> Path:
    """The wheel of this tree with those few kernels."""
    return _built(toolkits, few)


@pytest.fixture(scope="session")
def whole_wheel(toolkits: Path) -> Path:
    """The wheel of this tree."""
    return _built(toolkits, VARIANTS)
