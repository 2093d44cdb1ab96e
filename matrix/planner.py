"""Map the cells that users have to the few artefacts that serve them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kernels.table import VARIANTS
from matrix.cell import Artefact, Cell
from matrix.errors import MatrixError
from matrix.serving import serving, targets_by_operator

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from kernels.table.variant import Variant
    from matrix.block import Block
    from matrix.model import Matrix
    from matrix.serving import Serving, Targets


@dataclass(frozen=True)
class ServedCell:
    """A cell, and the artefact that serves it."""

    cell: Cell
    artefact: Artefact


@dataclass(frozen=True)
class ExcludedCell:
    """A cell that no artefact serves, and the reason."""

    cell: Cell
    reason: str


@dataclass(frozen=True)
class Plan:
    """Every cell of the matrix once, served or excluded; every artefact; and what runs on each SM."""

    served: tuple[ServedCell, ...]
    excluded: tuple[ExcludedCell, ...]
    artefacts: tuple[Artefact, ...]
    """All that can be built, released or not."""
    serving: Mapping[str, Serving] = field(default_factory=dict)
    """SM -> operator -> the code that serves it there."""


def plan(matrix: Matrix, *, table: Iterable[Variant] = VARIANTS) -> Plan:
    """Map every cell to one artefact, or to the reason for its exclusion.

    A cell is served if an artefact of the released toolkit exists for its platform and CUDA, and every
    operator that the release requires has a kernel for its GPU.

    Args:
        matrix: the axes, the exclusions and the release policy.
        table: the kernels in every artefact.

    Raises:
        MatrixError: a cell is neither served nor excluded, an exclusion excludes nothing, or the release
            requires an operator that the table lacks.
    """
    operators = _operators(matrix, table)
    artefacts = tuple(
        Artefact(platform.name, toolkit.name)
        for platform in matrix.platform
        if platform.target is not None
        for toolkit in matrix.toolkit
    )
    by_sm = {sm.name: serving(sm.name, operators) for sm in matrix.sm}
    cuda_majors = {toolkit.name: toolkit.cuda for toolkit in matrix.toolkit}[matrix.release.toolkit]
    rules = [(_block(matrix, index), rule.reason) for index, rule in enumerate(matrix.exclude)]
    served: list[ServedCell] = []
    excluded: list[ExcludedCell] = []
    used: set[int] = set()
    for cell in _cells(matrix):
        matching = [index for index, (block, _) in enumerate(rules) if cell in block]
        used.update(matching)
        if matching:
            excluded.append(ExcludedCell(cell, rules[matching[0]][1]))
            continue
        artefact = Artefact(cell.platform, matrix.release.toolkit)
        if artefact not in artefacts or _cuda_major(cell) not in cuda_majors:
            raise MatrixError(f"{cell}: no artefact serves this cell, and no exclusion gives a reason")
        for op in matrix.release.required:
            if by_sm[cell.sm][op] is None:
                raise MatrixError(
                    f"{cell}: the table has no kernel of the required operator {op!r} for this GPU, and no "
                    "exclusion gives a reason"
                )
        served.append(ServedCell(cell, artefact))
    for index in range(len(rules)):
        if index not in used:
            raise MatrixError(_useless(index))
    return Plan(tuple(served), tuple(excluded), artefacts, by_sm)


def _operators(matrix: Matrix, table: Iterable[Variant]) -> dict[str, Targets]:
    """Return what each operator is compiled for, the required operators first."""
    targets = targets_by_operator(table)
    for index, op in enumerate(matrix.release.required):
        if op not in targets:
            known = ", ".join(repr(name) for name in targets)
            raise MatrixError(
                f"release.required[{index}]: should be an operator of the kernel table ({known}), got {op!r}"
            )
    return {op: targets[op] for op in dict.fromkeys((*matrix.release.required, *targets))}


def _block(matrix: Matrix, index: int) -> Block:
    block = matrix.exclude[index].block(matrix.axes.torch)
    if block is None:
        raise MatrixError(_useless(index))
    return block


def _useless(index: int) -> str:
    return f"exclude[{index}]: excludes no cell; remove it or correct it"


def _cells(matrix: Matrix) -> list[Cell]:
    values = matrix.values
    axes = itertools.product(*(values[axis] for axis in ("platform", "python", "torch", "cuda", "sm")))
    return [Cell(*combination) for combination in axes]


def _cuda_major(cell: Cell) -> int:
    """``cu130`` -> 13: the last digit is the minor version."""
    return int(cell.cuda[2:-1])
