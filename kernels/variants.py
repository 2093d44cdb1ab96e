"""The kernel table: one typed row for each compiled kernel. Nothing else decides what is built."""

from __future__ import annotations

import difflib
import fnmatch
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kernels.errors import UnknownVariantError

if TYPE_CHECKING:
    from collections.abc import Sequence

ELEMENT_BYTES = 2  # fp16 and bf16
SLAB = 64  # elements of one swizzled row of shared memory, 128 bytes


@dataclass(frozen=True)
class Variant:
    """One kernel: what it computes and the shape of its schedule.

    Attributes:
        name: Unique; also the kernel's symbol in its cubin.
        op: What it computes: `fwd`.
        sm: Compute capability with its feature letter, as the compiler's `-arch=sm_` takes it.
        dtype: Of q, k, v and out: `fp16` or `bf16`.
        head_dim: Of q and k.
        head_dim_v: Of v and out.
        mask: `full`; `causal` (bottom-right aligned); or `local`: windows, chunks and softcap besides.
        source: File below `kernels/device`.
        tile_m: Query rows a thread block works on at a time.
        tile_n: Keys a step.
        stages_q: Buffers for tiles of Q.
        stages: Buffers for blocks of K, and as many for V.
        dynamic: Takes tiles from a queue in device memory instead of striding.
        output_in_q: Stages the output where Q lay, for want of shared memory.
        min_seqlen_q: Serves query sequences of at least this length; of several, the one with the greatest
            minimum serves.
        allow: Gates that this row may break, each with the reason: `(gate, reason)`.
    """

    name: str
    op: str
    sm: str
    dtype: str
    head_dim: int
    head_dim_v: int
    mask: str
    source: str
    tile_m: int
    tile_n: int
    stages_q: int
    stages: int
    dynamic: bool
    output_in_q: bool
    min_seqlen_q: int = 0
    allow: tuple[tuple[str, str], ...] = ()

    @property
    def threads(self) -> int:
        """Threads a block: a producer warpgroup and a consumer warpgroup for each 64 query rows."""
        return (self.tile_m // 64 + 1) * 128

    @property
    def smem_bytes(self) -> int:
        """Dynamic shared memory a block, bytes: buffers in slabs of 64 columns, and 1 KiB of barriers."""
        slabs, slabs_v = -(-self.head_dim // SLAB), -(-self.head_dim_v // SLAB)
        rows = (
            self.stages_q * self.tile_m * slabs
            + self.stages * self.tile_n * (slabs + slabs_v)
            + (0 if self.output_in_q else self.tile_m * slabs_v)
        )
        return rows * SLAB * ELEMENT_BYTES + 1024

    @property
    def blocks_per_sm(self) -> int:
        """Thread blocks that one multiprocessor holds: the buffers fill its shared memory."""
        return 1

    @property
    def box_rows(self) -> tuple[int, int, int]:
        """Rows of one TMA box of q, of k and v, and of out (a warp stores its own 16 rows)."""
        return (self.tile_m, self.tile_n, 16)

    def macros(self) -> dict[str, str]:
        """The row as the preprocessor sees it."""
        element = {"fp16": "cutlass::half_t", "bf16": "cutlass::bfloat16_t"}[self.dtype]
        return {
            "FA3_KERNEL": self.name,
            "FA3_ELEMENT": element,
            "FA3_HEAD_DIM": str(self.head_dim),
            "FA3_HEAD_DIM_V": str(self.head_dim_v),
            "FA3_TILE_M": str(self.tile_m),
            "FA3_TILE_N": str(self.tile_n),
            "FA3_STAGES_Q": str(self.stages_q),
            "FA3_STAGES": str(self.stages),
            "FA3_MASK": f"k{self.mask.capitalize()}",
            "FA3_OUTPUT_IN_Q": str(int(self.output_in_q)),
            "FA3_SMEM_BYTES": str(self.smem_bytes),
        }


@dataclass(frozen=True)
class _Tile:
    """A schedule of `fwd_sm90.cu`, chosen by measurement (NOTES.md)."""

    head_dim: int
    head_dim_v: int
    tile_m: int
    tile_n: int
    stages_q: int
    output_in_q: bool
    masks: tuple[str, ...] = ("full", "causal", "local")
    min_seqlen_q: int = 0


_FWD_SM90_TILES = (
    _Tile(64, 64, 192, 128, 2, output_in_q=False, masks=("full",)),
    _Tile(64, 64, 128, 128, 2, output_in_q=False, masks=("causal", "local")),
    _Tile(64, 64, 192, 128, 2, output_in_q=False, masks=("causal",), min_seqlen_q=4096),
    _Tile(96, 96, 128, 128, 2, output_in_q=False),
    _Tile(128, 128, 128, 128, 2, output_in_q=False),
    _Tile(192, 128, 128, 128, 1, output_in_q=True),
    _Tile(192, 192, 128, 80, 1, output_in_q=False),
    _Tile(256, 256, 128, 64, 1, output_in_q=True),
)


def _fwd_sm90(tile: _Tile, dtype: str, mask: str) -> Variant:
    head_dims = (
        f"d{tile.head_dim}" if tile.head_dim == tile.head_dim_v else f"d{tile.head_dim}x{tile.head_dim_v}"
    )
    suffix = f"_from{tile.min_seqlen_q}" if tile.min_seqlen_q else ""
    return Variant(
        name=f"fwd_sm90_{dtype}_{head_dims}_{mask}{suffix}",
        op="fwd",
        sm="90a",
        dtype=dtype,
        head_dim=tile.head_dim,
        head_dim_v=tile.head_dim_v,
        mask=mask,
        source="fwd_sm90.cu",
        tile_m=tile.tile_m,
        tile_n=tile.tile_n,
        stages_q=tile.stages_q,
        stages=2,
        dynamic=True,
        output_in_q=tile.output_in_q,
        min_seqlen_q=tile.min_seqlen_q,
    )


VARIANTS: tuple[Variant, ...] = tuple(
    _fwd_sm90(tile, dtype, mask)
    for tile in _FWD_SM90_TILES
    for dtype in ("fp16", "bf16")
    for mask in tile.masks
)


def select(patterns: Sequence[str] = ()) -> tuple[Variant, ...]:
    """Return the rows whose name matches any of the glob patterns, in table order; all rows for no pattern.

    Raises:
        UnknownVariantError: A pattern matches nothing; the message names the nearest rows.
    """
    names = [variant.name for variant in VARIANTS]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.3) or names[:3]
            raise UnknownVariantError(
                f"variant: got {pattern!r}, which matches no row of the table; nearest: {', '.join(near)}"
            )
    return tuple(
        variant
        for variant in VARIANTS
        if not patterns or any(fnmatch.fnmatchcase(variant.name, pattern) for pattern in patterns)
    )
