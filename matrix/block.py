"""Blocks of cells: thousands of cells as a few products of axis values."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from matrix.cell import Cell

AXES = ("platform", "torch", "cuda", "python", "sm")
"""The axes of a cell in the order in which blocks group them."""


class Block(BaseModel):
    """Every combination of the values listed; an axis without values stands for all of its values."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    platform: tuple[str, ...] = ()
    torch: tuple[str, ...] = ()
    cuda: tuple[str, ...] = ()
    python: tuple[str, ...] = ()
    sm: tuple[str, ...] = ()

    def __contains__(self, cell: Cell) -> bool:
        return all(
            not values or value in values
            for values, value in (
                (self.platform, cell.platform),
                (self.torch, cell.torch),
                (self.cuda, cell.cuda),
                (self.python, cell.python),
                (self.sm, cell.sm),
            )
        )


def blocks_of(cells: Iterable[Cell], values: Mapping[str, Sequence[str]]) -> tuple[Block, ...]:
    """Return disjoint blocks that hold exactly these cells, with every axis listed.

    Args:
        cells: cells whose values all occur in ``values``.
        values: the values of each axis of :data:`AXES`, in the order in which blocks list them.
    """
    position = {axis: {value: index for index, value in enumerate(values[axis])} for axis in AXES}

    def order(row: tuple[str, ...]) -> list[int]:
        return [position[axis][value] for axis, value in zip(AXES, row, strict=True)]

    rows = sorted((tuple(getattr(cell, axis) for axis in AXES) for cell in cells), key=order)
    return tuple(Block(**dict(zip(AXES, axes, strict=True))) for axes in _products(rows))


def _products(rows: Sequence[tuple[str, ...]]) -> tuple[tuple[tuple[str, ...], ...], ...]:
    """Split rows into products: values of the first axis that allow the same rest share a product."""
    if not rows:
        return ()
    if not rows[0]:
        return ((),)
    rests: dict[str, list[tuple[str, ...]]] = {}
    for first, *rest in rows:
        rests.setdefault(first, []).append(tuple(rest))
    sharing: dict[tuple[tuple[tuple[str, ...], ...], ...], list[str]] = {}
    for value, rest_rows in rests.items():
        sharing.setdefault(_products(rest_rows), []).append(value)
    return tuple((tuple(values), *rest) for products, values in sharing.items() for rest in products)
