"""The variants of `bwd_sm90.cu`: attention backward for compute capability 9.0 alone."""

from __future__ import annotations

from dataclasses import dataclass

from kernels.table.bwd import MAIN, BwdTail
from kernels.table.dtypes import dtype_named
from kernels.table.family import Family
from kernels.table.fwd import FWD_DTYPES, head_dims_name
from kernels.table.slabs import SLAB_ROW_BYTES, slabs
from kernels.table.variant import Variant

_ALIGNMENT = 1024  # of the structure in shared memory
_MOST_OTHERS = 512  # bytes of barriers and the work items, at most
_KEYS_OF_A_WARPGROUP = 64


@dataclass(frozen=True)
class Tile:
    """A schedule, chosen by measurement (`NOTES.md`).

    Attributes:
        head_dim: Of q and k.
        head_dim_v: Of v and out.
        tile_m: Query rows of a step.
        tile_n: Key rows of a thread block.
        stages: Buffers for tiles of q, and as many for dout.
    """

    head_dim: int
    head_dim_v: int
    tile_m: int
    tile_n: int
    stages: int

    def smem_bytes(self, dtype: str) -> int:
        """Return the size of the buffers and the barriers."""
        slabs_qk, slabs_v = slabs(self.head_dim, dtype), slabs(self.head_dim_v, dtype)
        rows = (
            (self.tile_n + self.stages * self.tile_m) * (slabs_qk + slabs_v)
            + 2 * self.tile_n * slabs(self.tile_m, dtype)  # two buffers of the gradients of the scores
            + self.tile_n * (slabs_qk + slabs_v)  # dk and dv on their way to the outputs
        )
        statistics = 2 * self.stages * self.tile_m * 4
        return -(-(rows * SLAB_ROW_BYTES + statistics + _MOST_OTHERS) // _ALIGNMENT) * _ALIGNMENT


_TILES = (
    Tile(64, 64, 64, 128, 2),
    Tile(96, 96, 64, 128, 2),
    Tile(128, 128, 64, 128, 2),
)


def _variant(tile: Tile, dtype: str, suffix: str = "") -> Variant:
    """Return the variant of a tile for one dtype; `suffix` ends its name."""
    name = f"bwd_sm90_{dtype}_{head_dims_name(tile.head_dim, tile.head_dim_v)}{suffix}"
    smem_bytes = tile.smem_bytes(dtype)
    return Variant(
        name=name,
        op="bwd",
        sm="90a",
        code="cubin",
        dtype_in=dtype,
        dtype_out=dtype,
        head_dim=tile.head_dim,
        head_dim_v=tile.head_dim_v,
        mask="any",
        source="bwd/bwd_sm90.cu",
        tile_m=tile.tile_m,
        tile_n=tile.tile_n,
        threads=(tile.tile_n // _KEYS_OF_A_WARPGROUP + 1) * 128,  # and one producer warpgroup
        smem_bytes=smem_bytes,
        blocks_per_sm=1,
        macros=(
            ("FA3_KERNEL", name),
            ("FA3_ELEMENT", dtype_named(dtype).cxx),
            ("FA3_HEAD_DIM", str(tile.head_dim)),
            ("FA3_HEAD_DIM_V", str(tile.head_dim_v)),
            ("FA3_TILE_M", str(tile.tile_m)),
            ("FA3_TILE_N", str(tile.tile_n)),
            ("FA3_STAGES", str(tile.stages)),
            ("FA3_SMEM_BYTES", str(smem_bytes)),
        ),
        tail=BwdTail(launch=MAIN, dynamic=True, tensor_maps=True, lane_floats=4),
    )


FAMILY = Family(variants=tuple(_variant(tile, dtype) for tile in _TILES for dtype in FWD_DTYPES))
