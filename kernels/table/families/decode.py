"""The variants of `decode.cu`: few query rows over many keys, for every compute capability from 8.0 on."""

from __future__ import annotations

from dataclasses import dataclass

from kernels.table.dtypes import dtype_named
from kernels.table.family import Family
from kernels.table.fwd import FWD_DTYPES, head_dims_name
from kernels.table.slabs import SLAB_ROW_BYTES, slabs
from kernels.table.targets import LARGE_SMEM, MEDIUM_SMEM, PORTABLE_TARGETS, SMALL_SMEM, Target
from kernels.table.variant import Variant

_TILE_M = 16
_WARPS = 4
_WARP_KEYS = 16
_JOIN_FLOATS = 8 * 64  # of a warp in the buffer that joins the warps


@dataclass(frozen=True)
class Tile:
    """A schedule.

    Attributes:
        head_dim: Of q, k, v and out.
        stages: Buffers of a warp, each for 16 rows of K and of V.
        blocks_per_sm: Blocks that the registers and the shared memory of a multiprocessor hold.
    """

    head_dim: int
    stages: int
    blocks_per_sm: int

    def smem_bytes(self, dtype: str) -> int:
        """Return the size of two Q, of the buffers of all warps, and of the one that joins their results."""
        row_bytes = slabs(self.head_dim, dtype) * SLAB_ROW_BYTES
        rows = 2 * _TILE_M + _WARPS * self.stages * 2 * _WARP_KEYS
        return rows * row_bytes + _WARPS * _JOIN_FLOATS * 4


# By the shared memory that a block may have.
_TILES = {
    SMALL_SMEM: (Tile(64, 3, 1), Tile(128, 2, 1), Tile(256, 1, 1)),
    MEDIUM_SMEM: (Tile(64, 4, 2), Tile(128, 2, 2), Tile(256, 2, 1)),
    LARGE_SMEM: (Tile(64, 4, 2), Tile(128, 3, 2), Tile(256, 2, 1)),
}


def _variant(target: Target, tile: Tile, dtype: str) -> Variant:
    name = f"decode_{target.name}_{dtype}_{head_dims_name(tile.head_dim, tile.head_dim)}"
    smem_bytes = tile.smem_bytes(dtype)
    return Variant(
        name=name,
        op="decode",
        sm=target.sm,
        code=target.code,
        dtype_in=dtype,
        dtype_out=dtype,
        head_dim=tile.head_dim,
        head_dim_v=tile.head_dim,
        mask="any",
        source="decode/decode.cu",
        tile_m=_TILE_M,
        tile_n=_WARPS * _WARP_KEYS,
        threads=_WARPS * 32,
        smem_bytes=smem_bytes,
        blocks_per_sm=tile.blocks_per_sm,
        macros=(
            ("FA3_KERNEL", name),
            ("FA3_ELEMENT", dtype_named(dtype).cxx),
            ("FA3_HEAD_DIM", str(tile.head_dim)),
            ("FA3_HEAD_DIM_V", str(tile.head_dim)),
            ("FA3_WARPS", str(_WARPS)),
            ("FA3_STAGES", str(tile.stages)),
            ("FA3_BLOCKS_PER_SM", str(tile.blocks_per_sm)),
            ("FA3_SMEM_BYTES", str(smem_bytes)),
        ),
    )


FAMILY = Family(
    variants=tuple(
        _variant(target, tile, dtype)
        for target in PORTABLE_TARGETS
        for tile in _TILES[target.smem_bytes]
        for dtype in FWD_DTYPES
    )
)
