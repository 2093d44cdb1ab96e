"""What tests of several folders share: a work folder with the toolkit, and the wheel of this tree."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ci.build import Workshop, build
from ci.toolkits import fetch_toolkit
from matrix.cell import Artefact
from matrix.model import read_matrix
from tests.quiet import Quiet

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[1]
WHEELHOUSE = Path(os.environ["FARM_WHEELHOUSE"]) if "FARM_WHEELHOUSE" in os.environ else None


@pytest.fixture(scope="session")
def toolkits() -> Path:
    """The folder that holds toolkit 12.8 unpacked: the tree's own, so that it is fetched once."""
    matrix = read_matrix()
    site = fetch_toolkit(
        matrix=matrix, name="12.8", cache=ROOT / ".farm" / "cache", wheelhouse=WHEELHOUSE, progress=Quiet()
    )
    return site.parent


@pytest.fixture
def new_work(toolkits: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Make a work folder that has the toolkits and nothing else."""

    def make(name: str) -> Path:
        cache = tmp_path / name / "cache"
        cache.mkdir(parents=True)
        (cache / "toolkits").symlink_to(toolkits)
        return tmp_path / name

    return make


@pytest.fixture(scope="session")
def wheel(toolkits: Path) -> Path:
    """The wheel of this tree."""
    workshop = Workshop(toolkits.parents[1], processors=2)
    artefact = Artefact("linux_x86_64", "12.8")
    return build(artefact=artefact, matrix=read_matrix(), workshop=workshop, progress=Quiet())
