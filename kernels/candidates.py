"""Rows that might serve better than those of the table: `farm tune` compiles and times them against it.

A candidate serves the lengths that the measurement finds, so it states none. One that wins goes into the
table by hand, as its family's own tile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernels.fwd_sm90_rows import Tile, row
from kernels.variants import select

if TYPE_CHECKING:
    from kernels.variant import Variant

_NO_WINDOWS = ("full", "causal")  # with the registers that windows take besides, the tile spills
_FWD_SM90 = (
    Tile(64, 64, 128, 128, 2, output_in_q=False),
    Tile(64, 64, 192, 128, 2, output_in_q=False, masks=_NO_WINDOWS),
    Tile(64, 64, 192, 112, 2, output_in_q=False),
    Tile(64, 64, 128, 192, 2, output_in_q=False),
    Tile(96, 96, 192, 96, 1, output_in_q=False),
    Tile(96, 96, 128, 160, 1, output_in_q=False),
    Tile(128, 128, 128, 112, 2, output_in_q=False),
    Tile(128, 128, 128, 160, 1, output_in_q=False),
    Tile(128, 128, 192, 80, 1, output_in_q=False, masks=_NO_WINDOWS),
    Tile(192, 128, 128, 112, 1, output_in_q=True),
    Tile(192, 192, 128, 96, 1, output_in_q=True),
    Tile(192, 192, 128, 112, 1, output_in_q=True),
    Tile(256, 256, 128, 80, 1, output_in_q=True, masks=_NO_WINDOWS),
)


def _fwd_sm90(tile: Tile, mask: str) -> Variant:
    staging = "o" if tile.output_in_q else ""
    return row(tile, "bf16", mask, f"_m{tile.tile_m}n{tile.tile_n}q{tile.stages_q}{staging}")


CANDIDATES: tuple[Variant, ...] = tuple(_fwd_sm90(tile, mask) for tile in _FWD_SM90 for mask in tile.masks)


def row_named(name: str) -> Variant:
    """Return the row of that name, of the table or of the candidates.

    Raises:
        UnknownVariantError: There is none; the message names the nearest rows of the table.
    """
    for candidate in CANDIDATES:
        if candidate.name == name:
            return candidate
    return select([name])[0]
