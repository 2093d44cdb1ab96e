"""The selector: the values of each axis of a cell, and the cell that the page shows first.

The page's script reads which cells are served, and the reasons of the others, from the page itself.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from index_site.cells import cuda_title, platform_title, sm_title
from index_site.gpus import gpu_title
from matrix.cell import Cell

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from index_site.manifest import ExcludedCells, Support
    from index_site.proofs import Proof
    from matrix.block import Block

_TITLES = {
    "platform": "Platform",
    "python": "Python",
    "torch": "PyTorch",
    "cuda": "CUDA build",
    "sm": "GPU",
}
"""The axes in the order of the selector."""
_VERSION = re.compile(r"(cu)?\d[\d.]*t?")
_NUMBER = re.compile(r"\d+")
_TORCH = re.compile(r"(\d+\.\d+)[^+]*\+(cu\d+)")


@dataclass(frozen=True)
class Option:
    """One value of an axis, and its title for readers."""

    value: str
    title: str
    selected: bool


@dataclass(frozen=True)
class Axis:
    """One axis with all of its values."""

    name: str
    title: str
    options: tuple[Option, ...]


@dataclass(frozen=True)
class Selector:
    """The axes, and the cell that is selected at first."""

    axes: tuple[Axis, ...]
    cell: Cell


def selector(
    supports: Sequence[Support], exclusions: Iterable[ExcludedCells], proofs: Iterable[Proof]
) -> Selector | None:
    """Return the selector of a release; None if it serves no cell.

    Args:
        supports: what its wheels serve.
        exclusions: whose values are offered as well, for their reasons.
        proofs: of its wheels.
    """
    cell = _first_cell(supports, proofs)
    if cell is None:
        return None
    blocks = [block for support in supports for block in support.cells]
    blocks += [item.cells for item in exclusions]
    gpus = {gpu.sm: gpu_title(gpu) for support in supports for gpu in support.gpus}
    return Selector(tuple(_axis(name, blocks, gpus, cell) for name in _TITLES), cell)


def _first_cell(supports: Sequence[Support], proofs: Iterable[Proof]) -> Cell | None:
    """Return a cell in which a report proves a wheel, or else any, with the newest versions it allows."""
    ran = {
        (*found.groups(), proof.sm)
        for proof in proofs
        if proof.counts and (found := _TORCH.match(proof.torch))
    }

    def preference(cell: Cell) -> tuple[object, ...]:
        versions = _numbers(cell.torch), _numbers(cell.python), _numbers(cell.cuda)
        return (cell.torch, cell.cuda, cell.sm) in ran, not cell.python.endswith("t"), *versions

    return max(
        (cell for support in supports for block in support.cells for cell in _cells(block)),
        key=preference,
        default=None,
    )


def _cells(block: Block) -> Iterable[Cell]:
    axes = (block.platform, block.python, block.torch, block.cuda, block.sm)
    return (Cell(*values) for values in itertools.product(*axes))


def _axis(name: str, blocks: Iterable[Block], gpus: dict[str, str], cell: Cell) -> Axis:
    values = {value for block in blocks for value in getattr(block, name)}
    chosen = getattr(cell, name)
    options = (
        Option(value, _title(name, value, gpus), value == chosen) for value in sorted(values, key=_order)
    )
    return Axis(name, _TITLES[name], tuple(options))


def _title(axis: str, value: str, gpus: dict[str, str]) -> str:
    match axis:
        case "platform":
            return platform_title(value)
        case "python":
            return f"{value} (free-threaded)" if value.endswith("t") else value
        case "cuda":
            return cuda_title(value)
        case "sm":
            return gpus.get(value, sm_title(value))
        case _:
            return value


def _order(value: str) -> tuple[bool, list[int], str]:
    """Sort versions by their numbers, and names such as ``newer`` after them."""
    is_name = _VERSION.fullmatch(value) is None
    return is_name, [] if is_name else _numbers(value), value


def _numbers(value: str) -> list[int]:
    return [int(number) for number in _NUMBER.findall(value)]
