"""The variants of `fwd_sm90.cu`: attention forward for compute capability 9.0 alone."""

from __future__ import annotations

from dataclasses import dataclass

from kernels.table.dtypes import dtype_named
from kernels.table.family import Family
from kernels.table.fwd import FWD_DTYPES, FwdTail, head_dims_name
from kernels.table.slabs import SLAB_ROW_BYTES, slabs
from kernels.table.variant import Variant

_STAGES = 2  # buffers for blocks of K, and as many for V
_BARRIER_BYTES = 1024
_ROWS_OF_A_WARP = 16  # each warp stores its own rows of out
_ROWS_OF_A_WARPGROUP = 64


@dataclass(frozen=True)
class Tile:
    """A schedule, chosen by measurement (`NOTES.md`).

    Attributes:
        head_dim: Of q and k.
        head_dim_v: Of one slice of v and out.
        tile_m: Query rows of a thread block.
        tile_n: Key rows of a step.
        stages_q: Buffers for tiles of Q.
        slabs_o: Slabs of out that are staged in shared memory at a time.
        masks: Mask classes that get a variant.
        min_seqlen_q: Least seqlen_q that the variants serve.
        value_slices: Slices of v; a tile computes one of them.
        halves: Under a causal mask, a block of which only one half is visible costs half the work.
        turns: The warpgroups take turns to issue their products, so that their exponentials spread out.
        dtypes: Dtypes that get a variant.
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
    dtypes: tuple[str, ...] = FWD_DTYPES

    def smem_bytes(self, dtype: str) -> int:
        """Return the size of the buffers and the barriers."""
        slabs_qk, slabs_v = slabs(self.head_dim, dtype), slabs(self.head_dim_v, dtype)
        rows = (
            self.stages_q * self.tile_m * slabs_qk
            + _STAGES * self.tile_n * (slabs_qk + slabs_v)
            + self.tile_m * self.slabs_o
        )
        return rows * SLAB_ROW_BYTES + _BARRIER_BYTES


_TILES = (
    Tile(64, 64, 192, 128, 2, slabs_o=1, masks=("full",), turns=True),
    Tile(64, 64, 192, 128, 2, slabs_o=1, masks=("causal",), halves=True, turns=True, dtypes=("bf16",)),
    # fp16 with halves runs out of registers.
    Tile(64, 64, 192, 128, 2, slabs_o=1, masks=("causal",), turns=True, dtypes=("fp16",)),
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


_CANDIDATES = (
    Tile(64, 64, 128, 128, 2, slabs_o=1),
    Tile(64, 64, 128, 128, 2, slabs_o=1, turns=True),
    Tile(64, 64, 128, 128, 2, slabs_o=1, masks=("local",), halves=True, turns=True),
    Tile(64, 64, 128, 192, 2, slabs_o=1),
    Tile(64, 64, 192, 128, 2, slabs_o=1),
    Tile(64, 64, 192, 128, 2, slabs_o=1, masks=("local",), halves=True, turns=True),
    Tile(64, 256, 128, 64, 1, slabs_o=2, value_slices=2, turns=True),
    Tile(96, 96, 128, 128, 2, slabs_o=2, turns=True),
    Tile(96, 96, 128, 128, 2, slabs_o=2, masks=("causal",), halves=True),
    Tile(96, 96, 128, 128, 2, slabs_o=2, masks=("causal", "local"), halves=True, turns=True),
    Tile(96, 96, 192, 96, 1, slabs_o=2),
    Tile(96, 96, 192, 96, 1, slabs_o=2, turns=True),
    Tile(96, 96, 192, 96, 2, slabs_o=1),
    Tile(96, 96, 192, 96, 2, slabs_o=1, turns=True),
    Tile(96, 96, 192, 112, 1, slabs_o=1),
    Tile(96, 96, 128, 160, 1, slabs_o=2),
    Tile(128, 128, 128, 128, 2, slabs_o=2),
    Tile(128, 128, 128, 128, 2, slabs_o=2, turns=True),
    Tile(128, 128, 128, 112, 2, slabs_o=2),
    Tile(128, 128, 128, 160, 1, slabs_o=2),
    Tile(128, 128, 192, 80, 1, slabs_o=2),
    Tile(128, 128, 128, 128, 2, slabs_o=2, masks=("causal", "local"), halves=True, turns=True),
    Tile(192, 128, 128, 112, 1, slabs_o=2),
    Tile(192, 128, 128, 128, 1, slabs_o=1, turns=True),
    Tile(192, 128, 128, 128, 1, slabs_o=1, halves=True, turns=True),
    Tile(192, 192, 128, 80, 1, slabs_o=3, turns=True),
    Tile(192, 192, 128, 96, 1, slabs_o=1),
    Tile(256, 256, 128, 64, 1, slabs_o=1),
    Tile(256, 256, 128, 64, 1, slabs_o=2, turns=True),
)


def _variant(tile: Tile, dtype: str, mask: str, suffix: str = "") -> Variant:
    """Return the variant of a tile for one dtype and mask; `suffix` ends its name."""
    head_dim_v = tile.head_dim_v * tile.value_slices
    name = f"fwd_sm90_{dtype}_{head_dims_name(tile.head_dim, head_dim_v)}_{mask}{suffix}"
    consumers = tile.tile_m // _ROWS_OF_A_WARPGROUP
    smem_bytes = tile.smem_bytes(dtype)
    return Variant(
        name=name,
        op="fwd",
        sm="90a",
        code="cubin",
        dtype_in=dtype,
        dtype_out=dtype,
        head_dim=tile.head_dim,
        head_dim_v=head_dim_v,
        mask=mask,
        source="fwd/fwd_sm90.cu",
        tile_m=tile.tile_m,
        tile_n=tile.tile_n,
        threads=(consumers + 1) * 128,  # and one producer warpgroup
        smem_bytes=smem_bytes,
        blocks_per_sm=1,
        macros=(
            ("FA3_KERNEL", name),
            ("FA3_ELEMENT", dtype_named(dtype).cxx),
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
        tail=FwdTail(
            dynamic=True,
            box_rows_q=tile.tile_m,
            box_rows_kv=tile.tile_n,
            box_rows_out=_ROWS_OF_A_WARP,
            min_seqlen_q=tile.min_seqlen_q,
            value_slices=tile.value_slices,
            packs_gqa=True,
        ),
    )


def _candidate(tile: Tile, mask: str) -> Variant:
    schedule = f"_m{tile.tile_m}n{tile.tile_n}q{tile.stages_q}o{tile.slabs_o}"
    switches = "h" * tile.halves + "t" * tile.turns
    return _variant(tile, "bf16", mask, f"{schedule}{switches}")


FAMILY = Family(
    variants=tuple(
        _variant(tile, dtype, mask, f"_from{tile.min_seqlen_q}" if tile.min_seqlen_q else "")
        for tile in _TILES
        for dtype in tile.dtypes
        for mask in tile.masks
    ),
    candidates=tuple(_candidate(tile, mask) for tile in _CANDIDATES for mask in tile.masks),
)
