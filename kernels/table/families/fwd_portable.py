"""The variants of `fwd_portable.cu`: attention forward for every compute capability from 8.0 on."""

from __future__ import annotations

from dataclasses import dataclass

from kernels.table.dtypes import dtype_named
from kernels.table.family import Family
from kernels.table.fwd import FWD_DTYPES, FwdTail, head_dims_name
from kernels.table.slabs import SLAB_ROW_BYTES, slabs
from kernels.table.targets import PORTABLE_TARGETS, Target
from kernels.table.variant import Variant


@dataclass(frozen=True)
class Tile:
    """A schedule.

    Attributes:
        head_dim: Of q and k.
        head_dim_v: Of v and out, all `value_slices` together.
        tile_m: Query rows of a thread block.
        tile_n: Key rows of a step.
        warps: Warps that share the query rows.
        stages: Buffers for blocks of K, and as many for V.
        blocks_per_sm: Blocks that the registers and the shared memory of a multiprocessor hold.
        q_in_registers: Each warp keeps its rows of Q in registers.
        value_slices: Slices of `head_dim_v`; a tile computes one of them.
    """

    head_dim: int
    head_dim_v: int
    tile_m: int
    tile_n: int
    warps: int
    stages: int
    blocks_per_sm: int
    q_in_registers: bool = False
    value_slices: int = 1

    @property
    def slice(self) -> int:
        """Columns of v and out that a tile computes."""
        return self.head_dim_v // self.value_slices

    def smem_bytes(self, dtype: str) -> int:
        """Return the size of the buffers of Q, K and V, whose place the output takes at the end."""
        slabs_qk, slabs_v = slabs(self.head_dim, dtype), slabs(self.slice, dtype)
        buffers = self.tile_m * slabs_qk + self.stages * self.tile_n * (slabs_qk + slabs_v)
        return max(buffers, self.tile_m * slabs_v) * SLAB_ROW_BYTES


# By the shared memory that a block may have; a multiprocessor has 1 KiB more. Only the tiles of sm_90 were
# timed; `fwd_portable.md` has the measurements, and the reasons for the others.
_SMALL = (
    Tile(64, 64, 128, 64, 4, 2, 2, q_in_registers=True),
    Tile(96, 96, 128, 64, 8, 2, 1),
    Tile(128, 128, 128, 64, 8, 2, 1),
    Tile(192, 128, 128, 64, 8, 1, 1),
    Tile(192, 192, 128, 64, 8, 1, 1),
    Tile(256, 256, 128, 32, 8, 1, 1),
    Tile(64, 512, 128, 64, 8, 2, 1, value_slices=2),
)
_MEDIUM = (
    Tile(64, 64, 128, 128, 4, 2, 2),
    Tile(96, 96, 128, 64, 4, 1, 2),
    Tile(128, 128, 128, 64, 4, 1, 2),
    Tile(192, 128, 128, 64, 8, 2, 1),
    Tile(192, 192, 128, 64, 8, 2, 1),
    Tile(256, 256, 128, 64, 8, 1, 1),
    Tile(64, 512, 128, 64, 8, 2, 1, value_slices=2),
)
_LARGE = (
    Tile(96, 96, 128, 64, 4, 2, 2),
    Tile(192, 128, 128, 64, 8, 2, 1),
    Tile(192, 192, 128, 64, 8, 2, 1),
    Tile(256, 256, 128, 64, 8, 2, 1),
    Tile(64, 512, 128, 64, 8, 2, 1, value_slices=2),
)
_TILES = {
    "sm80": _MEDIUM,
    "sm86": _SMALL,
    "sm89": _SMALL,
    "sm90": (Tile(64, 64, 128, 128, 4, 2, 2), Tile(128, 128, 128, 80, 4, 2, 2), *_LARGE),
    "sm100": (Tile(64, 64, 128, 96, 4, 2, 2), Tile(128, 128, 128, 64, 4, 2, 2), *_LARGE),
    "sm120": _SMALL,
    "ptx80": _SMALL,
}


def _variant(target: Target, tile: Tile, dtype: str, suffix: str = "") -> Variant:
    """Return the variant of a tile for one target and dtype; `suffix` ends its name."""
    head_dims = head_dims_name(tile.head_dim, tile.head_dim_v)
    name = f"fwd_portable_{target.name}_{dtype}_{head_dims}{suffix}"
    smem_bytes = tile.smem_bytes(dtype)
    return Variant(
        name=name,
        op="fwd",
        sm=target.sm,
        code=target.code,
        dtype_in=dtype,
        dtype_out=dtype,
        head_dim=tile.head_dim,
        head_dim_v=tile.head_dim_v,
        mask="any",
        source="fwd/fwd_portable.cu",
        tile_m=tile.tile_m,
        tile_n=tile.tile_n,
        threads=tile.warps * 32,
        smem_bytes=smem_bytes,
        blocks_per_sm=tile.blocks_per_sm,
        macros=(
            ("FA3_KERNEL", name),
            ("FA3_ELEMENT", dtype_named(dtype).cxx),
            ("FA3_HEAD_DIM", str(tile.head_dim)),
            ("FA3_HEAD_DIM_V", str(tile.slice)),
            ("FA3_TILE_M", str(tile.tile_m)),
            ("FA3_TILE_N", str(tile.tile_n)),
            ("FA3_WARPS", str(tile.warps)),
            ("FA3_STAGES", str(tile.stages)),
            ("FA3_Q_IN_REGISTERS", str(int(tile.q_in_registers))),
            ("FA3_BLOCKS_PER_SM", str(tile.blocks_per_sm)),
            ("FA3_SMEM_BYTES", str(smem_bytes)),
        ),
        tail=FwdTail(
            dynamic=False,
            box_rows_q=0,
            box_rows_kv=0,
            box_rows_out=0,
            min_seqlen_q=0,
            value_slices=tile.value_slices,
            packs_gqa=True,
        ),
    )


# Candidates are for sm_90, the one target that `farm tune` can time beside the kernels of sm_90a.
_CANDIDATE_TARGET = next(target for target in PORTABLE_TARGETS if target.name == "sm90")
_CANDIDATES = (
    Tile(64, 64, 128, 64, 4, 2, 2),
    Tile(64, 64, 128, 64, 8, 2, 2, q_in_registers=True),
    Tile(64, 64, 64, 64, 4, 2, 3),
    Tile(96, 96, 128, 64, 8, 2, 1),
    Tile(128, 128, 128, 64, 8, 2, 1),
    Tile(128, 128, 64, 64, 4, 2, 2),
    Tile(128, 128, 128, 32, 4, 2, 2),
    Tile(128, 128, 128, 128, 8, 2, 1),
    Tile(192, 192, 128, 64, 8, 1, 1),
    Tile(256, 256, 128, 32, 8, 2, 1),
)


def _candidate(tile: Tile) -> Variant:
    schedule = f"_m{tile.tile_m}n{tile.tile_n}w{tile.warps}s{tile.stages}b{tile.blocks_per_sm}"
    registers = "r" if tile.q_in_registers else ""
    return _variant(_CANDIDATE_TARGET, tile, "bf16", f"{schedule}{registers}")


FAMILY = Family(
    variants=tuple(
        _variant(target, tile, dtype)
        for target in PORTABLE_TARGETS
        for tile in _TILES[target.name]
        for dtype in FWD_DTYPES
    ),
    candidates=tuple(_candidate(tile) for tile in _CANDIDATES),
)
