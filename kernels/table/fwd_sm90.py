"""The rows of `fwd_sm90.cu`: attention forward for compute capability 9.0 alone."""

from __future__ import annotations

from dataclasses import dataclass

from kernels.table.variant import ELEMENT_BYTES, ELEMENTS, SLAB, Variant, head_dims_name, slabs

_STAGES = 2  # buffers for blocks of K, and as many for V
_ROWS_OF_A_WARP = 16  # a warp stores its own rows


@dataclass(frozen=True)
class Tile:
    """A schedule, chosen by measurement (`NOTES.md`).

    `head_dim_v` are the columns of one slice of v, of which there are `value_slices`. `stages_q` are buffers
    for tiles of Q. The output is staged `slabs_o` slabs of 64 columns at a time, as shared memory allows.
    With `halves` a causal mask that leaves half of a block leaves half the work. With `turns` the warpgroups
    issue their products in turns, so that their exponentials spread out.
    """

    head_dim: int
    head_dim_v: int
    tile_m: int
    tile_n: int
    stages_q: int
    slabs_o: int
    masks: tuple[str, ...] = ("full", "causal", "local")
    min_seqlen_q: int = 0
    value_slices: int = 1
    halves: bool = False
    turns: bool = False
    dtypes: tuple[str, ...] = ("fp16", "bf16")


_TILES = (
    Tile(64, 64, 192, 128, 2, slabs_o=1, masks=("full",), turns=True),
    Tile(64, 64, 192, 128, 2, slabs_o=1, masks=("causal",), halves=True, turns=True, dtypes=("bf16",)),
    Tile(64, 64, 192, 128, 2, slabs_o=1, masks=("causal",), turns=True, dtypes=("fp16",)),  # registers end
    Tile(64, 64, 192, 128, 2, slabs_o=1, masks=("causal",), turns=True, dtypes=("bf16",), min_seqlen_q=16384),
    Tile(64, 64, 128, 128, 2, slabs_o=1, masks=("local",), turns=True),
    Tile(64, 64, 192, 128, 2, slabs_o=1, masks=("local",), turns=True, min_seqlen_q=2048),
    Tile(64, 256, 128, 64, 1, slabs_o=2, value_slices=2),
    Tile(96, 96, 128, 128, 2, slabs_o=2, masks=("full",)),
    Tile(96, 96, 192, 96, 1, slabs_o=2, masks=("full",), min_seqlen_q=2048),
    Tile(96, 96, 128, 128, 2, slabs_o=2, masks=("causal", "local"), turns=True),
    Tile(96, 96, 192, 96, 1, slabs_o=2, masks=("causal",), turns=True, min_seqlen_q=2048),
    Tile(128, 128, 128, 128, 2, slabs_o=2, masks=("full",)),
    Tile(128, 128, 128, 128, 2, slabs_o=2, masks=("causal", "local"), turns=True),
    Tile(192, 128, 128, 128, 1, slabs_o=1, masks=("full", "causal"), halves=True),
    Tile(192, 128, 128, 128, 1, slabs_o=1, masks=("local",), halves=True, turns=True),
    Tile(192, 192, 128, 80, 1, slabs_o=3, masks=("full", "causal")),
    Tile(192, 192, 128, 80, 1, slabs_o=3, masks=("local",), turns=True),
    Tile(256, 256, 128, 64, 1, slabs_o=2, masks=("full", "causal")),
    Tile(256, 256, 128, 64, 1, slabs_o=2, masks=("local",), turns=True),
)


def _smem_bytes(tile: Tile) -> int:
    """Return the size of the buffers, slabs of 64 columns, and 1 KiB of barriers."""
    rows = (
        tile.stages_q * tile.tile_m * slabs(tile.head_dim)
        + _STAGES * tile.tile_n * (slabs(tile.head_dim) + slabs(tile.head_dim_v))
        + tile.tile_m * tile.slabs_o
    )
    return rows * SLAB * ELEMENT_BYTES + 1024


def row(tile: Tile, dtype: str, mask: str, suffix: str = "") -> Variant:
    """Return the row of a tile for one dtype and mask; `suffix` ends its name."""
    head_dim_v = tile.head_dim_v * tile.value_slices
    name = f"fwd_sm90_{dtype}_{head_dims_name(tile.head_dim, head_dim_v)}_{mask}{suffix}"
    smem_bytes = _smem_bytes(tile)
    return Variant(
        name=name,
        op="fwd",
        sm="90a",
        code="cubin",
        dtype=dtype,
        head_dim=tile.head_dim,
        head_dim_v=head_dim_v,
        mask=mask,
        source="fwd/fwd_sm90.cu",
        tile_m=tile.tile_m,
        tile_n=tile.tile_n,
        threads=(tile.tile_m // 64 + 1) * 128,  # a producer warpgroup, and a consumer one for 64 query rows
        smem_bytes=smem_bytes,
        blocks_per_sm=1,
        macros=(
            ("FA3_KERNEL", name),
            ("FA3_ELEMENT", ELEMENTS[dtype]),
            ("FA3_HEAD_DIM", str(tile.head_dim)),
            ("FA3_HEAD_DIM_V", str(tile.head_dim_v)),
            ("FA3_TILE_M", str(tile.tile_m)),
            ("FA3_TILE_N", str(tile.tile_n)),
            ("FA3_STAGES_Q", str(tile.stages_q)),
            ("FA3_STAGES", str(_STAGES)),
            ("FA3_MASK", f"k{mask.capitalize()}"),
            ("FA3_SLABS_O", str(tile.slabs_o)),
            ("FA3_HALVES", str(int(tile.halves))),
            ("FA3_TURNS", str(int(tile.turns))),
            ("FA3_SMEM_BYTES", str(smem_bytes)),
        ),
        dynamic=True,
        box_rows=(tile.tile_m, tile.tile_n, _ROWS_OF_A_WARP),
        min_seqlen_q=tile.min_seqlen_q,
        value_slices=tile.value_slices,
        packs_gqa=True,
    )


FWD_SM90: tuple[Variant, ...] = tuple(
    row(tile, dtype, mask, f"_from{tile.min_seqlen_q}" if tile.min_seqlen_q else "")
    for tile in _TILES
    for dtype in tile.dtypes
    for mask in tile.masks
)
