"""Rows that might serve better than those of the table: `farm tune` compiles and times them against it.

A candidate serves the lengths that the measurement finds, so it states none. One that wins goes into the
table by hand, as its family's own tile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernels.table import fwd_portable as portable
from kernels.table import fwd_sm90 as sm90
from kernels.table import select
from kernels.table.targets import PORTABLE_TARGETS

if TYPE_CHECKING:
    from kernels.table.variant import Variant

_FWD_SM90 = (
    sm90.Tile(64, 64, 128, 128, 2, slabs_o=1),
    sm90.Tile(64, 64, 128, 128, 2, slabs_o=1, turns=True),
    sm90.Tile(64, 64, 128, 128, 2, slabs_o=1, masks=("local",), halves=True, turns=True),
    sm90.Tile(64, 64, 128, 192, 2, slabs_o=1),
    sm90.Tile(64, 64, 192, 128, 2, slabs_o=1),
    sm90.Tile(64, 64, 192, 128, 2, slabs_o=1, masks=("local",), halves=True, turns=True),
    sm90.Tile(64, 256, 128, 64, 1, slabs_o=2, value_slices=2, turns=True),
    sm90.Tile(96, 96, 128, 128, 2, slabs_o=2, turns=True),
    sm90.Tile(96, 96, 128, 128, 2, slabs_o=2, masks=("causal",), halves=True),
    sm90.Tile(96, 96, 128, 128, 2, slabs_o=2, masks=("causal", "local"), halves=True, turns=True),
    sm90.Tile(96, 96, 192, 96, 1, slabs_o=2),
    sm90.Tile(96, 96, 192, 96, 1, slabs_o=2, turns=True),
    sm90.Tile(96, 96, 192, 96, 2, slabs_o=1),
    sm90.Tile(96, 96, 192, 96, 2, slabs_o=1, turns=True),
    sm90.Tile(96, 96, 192, 112, 1, slabs_o=1),
    sm90.Tile(96, 96, 128, 160, 1, slabs_o=2),
    sm90.Tile(128, 128, 128, 128, 2, slabs_o=2),
    sm90.Tile(128, 128, 128, 128, 2, slabs_o=2, turns=True),
    sm90.Tile(128, 128, 128, 112, 2, slabs_o=2),
    sm90.Tile(128, 128, 128, 160, 1, slabs_o=2),
    sm90.Tile(128, 128, 192, 80, 1, slabs_o=2),
    sm90.Tile(128, 128, 128, 128, 2, slabs_o=2, masks=("causal", "local"), halves=True, turns=True),
    sm90.Tile(192, 128, 128, 112, 1, slabs_o=2),
    sm90.Tile(192, 128, 128, 128, 1, slabs_o=1, turns=True),
    sm90.Tile(192, 128, 128, 128, 1, slabs_o=1, halves=True, turns=True),
    sm90.Tile(192, 192, 128, 80, 1, slabs_o=3, turns=True),
    sm90.Tile(192, 192, 128, 96, 1, slabs_o=1),
    sm90.Tile(256, 256, 128, 64, 1, slabs_o=1),
    sm90.Tile(256, 256, 128, 64, 1, slabs_o=2, turns=True),
)


# Of the portable kernels those for sm_90, which can be timed on the same GPU.
_PORTABLE_TARGET = next(target for target in PORTABLE_TARGETS if target.name == "sm90")
_FWD_PORTABLE = (
    portable.Tile(64, 64, 128, 64, 4, 2, 2),
    portable.Tile(64, 64, 128, 64, 8, 2, 2, q_in_registers=True),
    portable.Tile(64, 64, 64, 64, 4, 2, 3),
    portable.Tile(96, 96, 128, 64, 8, 2, 1),
    portable.Tile(128, 128, 128, 64, 8, 2, 1),
    portable.Tile(128, 128, 64, 64, 4, 2, 2),
    portable.Tile(128, 128, 128, 32, 4, 2, 2),
    portable.Tile(128, 128, 128, 128, 8, 2, 1),
    portable.Tile(192, 192, 128, 64, 8, 1, 1),
    portable.Tile(256, 256, 128, 32, 8, 2, 1),
)


def _fwd_sm90(tile: sm90.Tile, mask: str) -> Variant:
    schedule = f"_m{tile.tile_m}n{tile.tile_n}q{tile.stages_q}o{tile.slabs_o}"
    switches = "h" * tile.halves + "t" * tile.turns
    return sm90.row(tile, "bf16", mask, f"{schedule}{switches}")


def _fwd_portable(tile: portable.Tile) -> Variant:
    schedule = f"_m{tile.tile_m}n{tile.tile_n}w{tile.warps}s{tile.stages}b{tile.blocks_per_sm}"
    registers = "r" if tile.q_in_registers else ""
    return portable.row(_PORTABLE_TARGET, tile, "bf16", f"{schedule}{registers}")


CANDIDATES: tuple[Variant, ...] = (
    *(_fwd_sm90(tile, mask) for tile in _FWD_SM90 for mask in tile.masks),
    *(_fwd_portable(tile) for tile in _FWD_PORTABLE),
)


def row_named(name: str) -> Variant:
    """Return the row of that name, of the table or of the candidates.

    Raises:
        UnknownVariantError: There is none; the message names the nearest rows of the table.
    """
    for candidate in CANDIDATES:
        if candidate.name == name:
            return candidate
    return select([name])[0]
