"""Collapse the cells that users have into the few artefacts that serve them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from packaging.specifiers import SpecifierSet

from kernels.table import VARIANTS
from matrix.cell import Artefact, Cell
from matrix.errors import MatrixError
from matrix.serving import compiled_for, serving_kind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kernels.table.variant import Variant
    from matrix.model import Exclusion, Matrix
    from matrix.serving import Kind


@dataclass(frozen=True)
class Served:
    """A cell, the artefact that serves it, and the kind of kernels in it that does."""

    cell: Cell
    artefact: Artefact
    kernels: Kind


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


def plan(matrix: Matrix, *, table: Iterable[Variant] = VARIANTS) -> Plan:
    """Map every cell to one artefact or to the reason of its exclusion.

    Args:
        matrix: the axes and exclusions.
        table: the kernels that every artefact holds.

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
    compiled = {compiled_for(row) for row in table if row.op == "fwd"}
    kinds = {sm.name: serving_kind(sm.name, compiled) for sm in matrix.sm}
    served: list[Served] = []
    excluded: list[Excluded] = []
    used: set[int] = set()
    for cell in _cells(matrix):
        matching = [index for index, rule in enumerate(matrix.exclude) if _matches(rule, cell)]
        used.update(matching)
        artefact = Artefact(cell.platform, matrix.release.toolkit)
        if matching:
            excluded.append(Excluded(cell, matrix.exclude[matching[0]].reason))
        elif artefact in artefacts and _cuda_major(cell) in cuda_majors and (kind := kinds[cell.sm]):
            served.append(Served(cell, artefact, kind))
        else:
            lacking = "artefact" if kinds[cell.sm] else "kernel of the table"
            raise MatrixError(f"{cell}: no {lacking} serves this cell and no exclusion says why")
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
