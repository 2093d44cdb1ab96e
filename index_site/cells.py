"""The cells that a release serves and those that nothing serves, as rows and words for the page."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from index_site.manifest import Support
    from matrix.block import Block

EVERY_GPU = "every GPU above"
_SHORTEST_RANGE = 3
_SYSTEMS = {"linux": "Linux", "win": "Windows"}
_MINOR = re.compile(r"(\d+)\.(\d+)")


@dataclass(frozen=True)
class CellRow:
    """One row of the table of served cells: every combination of the values in it can be installed.

    Attributes:
        cells: the row as a block with every axis listed; the other attributes are its axes in words.
    """

    cells: Block
    torch: str
    cuda: str
    python: str
    gpus: str
    platform: str


def cell_rows(supports: Iterable[Support]) -> tuple[CellRow, ...]:
    """Return the rows for the wheels of a release, in the order of the matrix.

    Args:
        supports: what each wheel serves. Blocks that differ in nothing but the platform share a row.
    """
    platforms: dict[Block, list[str]] = {}
    every_sm: list[str] = []
    for support in supports:
        every_sm += [gpu.sm for gpu in support.gpus if gpu.sm not in every_sm]
        for block in support.cells:
            anywhere = block.model_copy(update={"platform": ()})
            platforms.setdefault(anywhere, []).extend(block.platform)
    return tuple(
        CellRow(
            cells=block.model_copy(update={"platform": tuple(names)}),
            torch=_ranges(block.torch),
            cuda=", ".join(cuda_title(name) for name in block.cuda),
            python=_ranges(block.python),
            gpus=EVERY_GPU
            if set(block.sm) == set(every_sm)
            else ", ".join(sm_title(name) for name in block.sm),
            platform=", ".join(names),
        )
        for block, names in platforms.items()
    )


def block_words(block: Block) -> str:
    """Return a block in words, without the axes of which it has every value: ``Python 3.10, torch 2.15``."""
    named = (
        ("", block.platform),
        ("Python ", block.python),
        ("torch ", (_ranges(block.torch),) if block.torch else ()),
        ("CUDA ", tuple(cuda_title(name) for name in block.cuda)),
        ("", tuple(sm_title(name) for name in block.sm)),
    )
    return ", ".join(label + " or ".join(values) for label, values in named if values)


def _ranges(versions: Sequence[str]) -> str:
    """Join versions; three or more in a row become a range: ``3.10-3.13, 3.13t`` with an en dash."""
    runs: list[list[str]] = []
    for version in versions:
        if runs and _follows(runs[-1][-1], version):
            runs[-1].append(version)
        else:
            runs.append([version])
    return ", ".join(
        f"{run[0]}\N{EN DASH}{run[-1]}" if len(run) >= _SHORTEST_RANGE else ", ".join(run) for run in runs
    )


def _follows(version: str, following: str) -> bool:
    """Return whether one minor version comes right after another; the free-threaded ``3.13t`` never does."""
    first, second = _MINOR.fullmatch(version), _MINOR.fullmatch(following)
    if first is None or second is None:
        return False
    return first[1] == second[1] and int(first[2]) + 1 == int(second[2])


def cuda_title(name: str) -> str:
    """``cu130`` -> ``13.0``."""
    digits = name.removeprefix("cu")
    return f"{digits[:-1]}.{digits[-1]}"


def sm_title(name: str) -> str:
    """``90`` -> ``sm_90``."""
    return f"sm_{name}" if name.isdigit() else f"{name} GPUs"


def platform_title(name: str) -> str:
    """``linux_aarch64`` -> ``Linux aarch64``."""
    system, _, processor = name.partition("_")
    return f"{_SYSTEMS.get(system, system)} {processor}"
