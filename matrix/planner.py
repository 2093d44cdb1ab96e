"""Collapse the cells that users have into the few artefacts that serve them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from packaging.specifiers import SpecifierSet

from matrix.cell import Artefact, Cell
from matrix.errors import MatrixError

if TYPE_CHECKING:
    from matrix.model import Exclusion, Matrix


@dataclass(frozen=True)
class Served:
    """A cell and the artefact that serves it."""

    cell: Cell
    artefact: Artefact


@dataclass(frozen=True)
class Excluded:
    """A cell that nothing serves, and why."""

    cell: Cell
    reason: str


@dataclass(frozen=True)
class Plan:
    """Every cell of the matrix, exactly once, and every artefact that can be built."""

    served: tuple[Served, ...]
    excluded: tuple[Excluded, ...]
    artefacts: tuple[Artefact, ...]


def plan(matrix: Matrix) -> Plan:
    """Map every cell to one artefact or to the reason of its exclusion.

    Raises:
        MatrixError: if a cell is neither served nor excluded, or an exclusion excludes nothing.
    """
    artefacts = tuple(
        Artefact(platform.name, toolkit.name)
        for platform in matrix.platform
        if platform.target is not None
        for toolkit in matrix.toolkit
    )
    cuda_majors = {toolkit.name: toolkit.cuda for toolkit in matrix.toolkit}[matrix.release.toolkit]
    served: list[Served] = []
    excluded: list[Excluded] = []
    used: set[int] = set()
    for cell in _cells(matrix):
        matching = [index for index, rule in enumerate(matrix.exclude) if _matches(rule, cell)]
        used.update(matching)
        artefact = Artefact(cell.platform, matrix.release.toolkit)
        if matching:
            excluded.append(Excluded(cell, matrix.exclude[matching[0]].reason))
        elif artefact in artefacts and _cuda_major(cell) in cuda_majors:
            served.append(Served(cell, artefact))
        else:
            raise MatrixError(f"{cell}: no artefact serves this cell and no exclusion says why")
    for index in range(len(matrix.exclude)):
        if index not in used:
            raise MatrixError(f"exclude[{index}]: excludes no cell; remove it or correct it")
    return Plan(tuple(served), tuple(excluded), artefacts)


def _cells(matrix: Matrix) -> list[Cell]:
    axes = itertools.product(
        (platform.name for platform in matrix.platform),
        matrix.axes.python,
        matrix.axes.torch,
        matrix.axes.cuda,
        (sm.name for sm in matrix.sm),
    )
    return [Cell(*values) for values in axes]


def _matches(rule: Exclusion, cell: Cell) -> bool:
    named = (
        (rule.platform, cell.platform),
        (rule.python, cell.python),
        (rule.cuda, cell.cuda),
        (rule.sm, cell.sm),
    )
    return all(not values or value in values for values, value in named) and (
        cell.torch in SpecifierSet(rule.torch)
    )


def _cuda_major(cell: Cell) -> int:
    """``cu130`` -> 13: the last digit is the minor version."""
    return int(cell.cuda[2:-1])
