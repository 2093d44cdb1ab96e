"""One row of the kernel table, as plain data: the families of kernels fill it in."""

from __future__ import annotations

from dataclasses import dataclass

ELEMENT_BYTES = 2  # fp16 and bf16
SLAB = 64  # elements of one swizzled row of shared memory, 128 bytes
ELEMENTS = {"fp16": "fa3::Half", "bf16": "fa3::Bfloat16"}


@dataclass(frozen=True)
class Variant:
    """One kernel: what it computes, what it needs, and how it is launched.

    Attributes:
        name: Unique; also the kernel's symbol in its image.
        op: What it computes: `fwd` or `combine`.
        sm: Compute capability, with its feature letter if it runs on that one alone: `90a`, `80`.
        code: `cubin`, machine code; or `ptx`, which the driver assembles for any capability from `sm` on.
        dtype: Of q, k, v and out: `fp16` or `bf16`. Of a combine's partial results: `fp32`.
        head_dim: Of q and k; the greatest that the kernel takes. 0 for a combine.
        head_dim_v: Of v and out, the same, all `value_slices` together. 0 for a combine.
        mask: `full`; `causal` (bottom-right aligned); `local`: windows, chunks and softcap besides; or `any`:
            the run-time parameters of `local` say which.
        source: File below `kernels/device`.
        tile_m: Query rows a thread block works on at a time.
        tile_n: Keys a step; 0 for a combine.
        threads: Of a block.
        smem_bytes: Dynamic shared memory of a block.
        blocks_per_sm: Blocks that one multiprocessor holds.
        macros: The row as the preprocessor sees it: `(name, value)`.
        dynamic: Takes tiles from a queue in device memory; otherwise there is a block for every tile.
        box_rows: Rows of one TMA box of q, of k and v, and of out; zeros for a kernel without tensor maps.
        min_seqlen_q: Serves query sequences of at least this length; of several, the one with the greatest
            minimum serves.
        value_slices: Parts of `head_dim_v`; a tile computes one of them.
        packs_gqa: The query heads of a key head can share a tile.
        allow: Gates that this row may break, each with the reason: `(gate, reason)`.
    """

    name: str
    op: str
    sm: str
    code: str
    dtype: str
    head_dim: int
    head_dim_v: int
    mask: str
    source: str
    tile_m: int
    tile_n: int
    threads: int
    smem_bytes: int
    blocks_per_sm: int
    macros: tuple[tuple[str, str], ...]
    dynamic: bool = False
    box_rows: tuple[int, int, int] = (0, 0, 0)
    min_seqlen_q: int = 0
    value_slices: int = 1
    packs_gqa: bool = False
    allow: tuple[tuple[str, str], ...] = ()


def slabs(columns: int) -> int:
    """Return how many swizzled slabs hold so many columns."""
    return -(-columns // SLAB)


def head_dims_name(head_dim: int, head_dim_v: int) -> str:
    """Return the part of a kernel's name that says its head dimensions: `d128`, `d192x128`."""
    return f"d{head_dim}" if head_dim == head_dim_v else f"d{head_dim}x{head_dim_v}"
