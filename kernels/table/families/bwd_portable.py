"""The variants of `bwd_portable.cu`: attention backward for every compute capability from 8.0 on."""

from __future__ import annotations

from dataclasses import dataclass

from kernels.table.bwd import MAIN, BwdTail
from kernels.table.dtypes import dtype_named
from kernels.table.family import Family
from kernels.table.fwd import FWD_DTYPES, head_dims_name
from kernels.table.slabs import SLAB_ROW_BYTES, slabs
from kernels.table.targets import PORTABLE_TARGETS, Target
from kernels.table.variant import Variant


@dataclass(frozen=True)
class Tile:
    """A schedule.

    Attributes:
        head_dim: Of q and k.
        head_dim_v: Of v and out.
        tile_m: Query rows of a step.
        tile_n: Key rows of a thread block.
        warps: Warps that share the keys.
        stages: Buffers for tiles of q, and as many for dout.
        blocks_per_sm: Blocks that the registers and the shared memory of a multiprocessor hold.
        split: Warps that share their keys. Each computes the scores of a part of the queries, and a part of
            the columns of dk and dv.
    """

    head_dim: int
    head_dim_v: int
    tile_m: int
    tile_n: int
    warps: int
    stages: int
    blocks_per_sm: int
    split: int = 1

    def smem_bytes(self, dtype: str) -> int:
        """Return the size of the buffers."""
        slabs_qk, slabs_v = slabs(self.head_dim, dtype), slabs(self.head_dim_v, dtype)
        stage = self.tile_m * (slabs_qk + slabs_v) * SLAB_ROW_BYTES + 2 * self.tile_m * 4
        exchanged = 1 if self.split == 1 else 2  # the gradients of the scores; P where warps share their keys
        gradients = exchanged * self.tile_n * slabs(self.tile_m, dtype) * SLAB_ROW_BYTES
        return self.tile_n * (slabs_qk + slabs_v) * SLAB_ROW_BYTES + self.stages * stage + gradients


_SMALL = (
    Tile(64, 64, 64, 128, 8, 1, 1),
    Tile(96, 96, 64, 64, 4, 1, 1),
    Tile(128, 128, 64, 64, 4, 1, 1),
    Tile(192, 128, 64, 64, 8, 1, 1, split=2),
    Tile(192, 192, 32, 64, 8, 1, 1, split=2),
    Tile(256, 256, 32, 32, 4, 1, 1, split=2),
    Tile(64, 256, 32, 64, 8, 1, 1, split=2),
    Tile(64, 512, 32, 32, 4, 1, 1, split=2),
)
_LARGE = (
    Tile(64, 64, 64, 128, 8, 2, 1),
    Tile(96, 96, 64, 128, 8, 2, 1),
    Tile(128, 128, 64, 128, 8, 2, 1, split=2),
    Tile(192, 128, 64, 64, 8, 2, 1, split=2),
    Tile(192, 192, 64, 64, 8, 2, 1, split=2),
    Tile(256, 256, 64, 64, 8, 1, 1, split=2),
    Tile(64, 256, 64, 64, 8, 2, 1, split=2),
    Tile(64, 512, 64, 64, 8, 1, 1, split=2),
)


def _without_spills(tiles: tuple[Tile, ...], tile: Tile) -> tuple[Tile, ...]:
    """Return the tiles with another one for its head dimensions, where the assembler spills."""
    dims = (tile.head_dim, tile.head_dim_v)
    return (*(other for other in tiles if (other.head_dim, other.head_dim_v) != dims), tile)


_TILES = {
    "sm80": _LARGE,
    "sm86": _SMALL,
    "sm89": _SMALL,
    "sm90": _LARGE,
    "sm100": _without_spills(_LARGE, Tile(128, 128, 64, 64, 8, 2, 1, split=2)),
    "sm120": _without_spills(_SMALL, Tile(128, 128, 64, 64, 8, 1, 1, split=2)),
    "ptx80": _SMALL,
}


def _variant(target: Target, tile: Tile, dtype: str) -> Variant:
    name = f"bwd_portable_{target.name}_{dtype}_{head_dims_name(tile.head_dim, tile.head_dim_v)}"
    smem_bytes = tile.smem_bytes(dtype)
    return Variant(
        name=name,
        op="bwd",
        sm=target.sm,
        code=target.code,
        dtype_in=dtype,
        dtype_out=dtype,
        head_dim=tile.head_dim,
        head_dim_v=tile.head_dim_v,
        mask="any",
        source="bwd/bwd_portable.cu",
        tile_m=tile.tile_m,
        tile_n=tile.tile_n,
        threads=tile.warps * 32,
        smem_bytes=smem_bytes,
        blocks_per_sm=tile.blocks_per_sm,
        macros=(
            ("FA3_KERNEL", name),
            ("FA3_ELEMENT", dtype_named(dtype).cxx),
            ("FA3_HEAD_DIM", str(tile.head_dim)),
            ("FA3_HEAD_DIM_V", str(tile.head_dim_v)),
            ("FA3_TILE_M", str(tile.tile_m)),
            ("FA3_TILE_N", str(tile.tile_n)),
            ("FA3_WARPS", str(tile.warps)),
            ("FA3_STAGES", str(tile.stages)),
            ("FA3_SPLIT", str(tile.split)),
            ("FA3_BLOCKS_PER_SM", str(tile.blocks_per_sm)),
            ("FA3_SMEM_BYTES", str(smem_bytes)),
        ),
        tail=BwdTail(launch=MAIN),
    )


FAMILY = Family(
    variants=tuple(
        _variant(target, tile, dtype)
        for target in PORTABLE_TARGETS
        for tile in _TILES[target.name]
        for dtype in FWD_DTYPES
    )
)
