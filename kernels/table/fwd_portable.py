"""The rows of `fwd_portable.cu`: attention forward for every compute capability from 8.0 on."""

from __future__ import annotations

from dataclasses import dataclass

from kernels.table.targets import PORTABLE_TARGETS, Target
from kernels.table.variant import ELEMENT_BYTES, ELEMENTS, SLAB, Variant, head_dims_name, slabs


@dataclass(frozen=True)
class Tile:
    """A schedule: `warps` share the query rows, and K and V have `stages` buffers each."""

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

    @property
    def smem_bytes(self) -> int:
        """Bytes of the buffers, or of the output staged where they lay, if that is more."""
        buffers = self.tile_m * slabs(self.head_dim) + self.stages * self.tile_n * (
            slabs(self.head_dim) + slabs(self.slice)
        )
        return max(buffers, self.tile_m * slabs(self.slice)) * SLAB * ELEMENT_BYTES


# By the shared memory that one block may have; multiprocessors have 1 KiB more. Timed on an sm_90 alone:
# `fwd_portable.md` says what was, and why the others are as they are.
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


def row(target: Target, tile: Tile, dtype: str, suffix: str = "") -> Variant:
    """Return the row of a tile for one target and dtype; `suffix` ends its name."""
    head_dims = head_dims_name(tile.head_dim, tile.head_dim_v)
    name = f"fwd_portable_{target.name}_{dtype}_{head_dims}{suffix}"
    return Variant(
        name=name,
        op="fwd",
        sm=target.sm,
        code=target.code,
        dtype=dtype,
        head_dim=tile.head_dim,
        head_dim_v=tile.head_dim_v,
        mask="any",
        source="fwd/fwd_portable.cu",
        tile_m=tile.tile_m,
        tile_n=tile.tile_n,
        threads=tile.warps * 32,
        smem_bytes=tile.smem_bytes,
        blocks_per_sm=tile.blocks_per_sm,
        macros=(
            ("FA3_KERNEL", name),
            ("FA3_ELEMENT", ELEMENTS[dtype]),
            ("FA3_HEAD_DIM", str(tile.head_dim)),
            ("FA3_HEAD_DIM_V", str(tile.slice)),
            ("FA3_TILE_M", str(tile.tile_m)),
            ("FA3_TILE_N", str(tile.tile_n)),
            ("FA3_WARPS", str(tile.warps)),
            ("FA3_STAGES", str(tile.stages)),
            ("FA3_Q_IN_REGISTERS", str(int(tile.q_in_registers))),
            ("FA3_BLOCKS_PER_SM", str(tile.blocks_per_sm)),
            ("FA3_SMEM_BYTES", str(tile.smem_bytes)),
        ),
        value_slices=tile.value_slices,
        packs_gqa=True,
    )


FWD_PORTABLE: tuple[Variant, ...] = tuple(
    row(target, tile, dtype)
    for target in PORTABLE_TARGETS
    for tile in _TILES[target.name]
    for dtype in ("fp16", "bf16")
)
