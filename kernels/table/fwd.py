"""What the families of attention forward share: dtypes, tail, and how names state head dimensions."""

from __future__ import annotations

from dataclasses import dataclass

from kernels.table.variant import Tail

FWD_DTYPES = ("fp16", "bf16")
"""Dtypes that q, k, v and out can have."""


@dataclass(frozen=True)
class FwdTail(Tail):
    """Fields of the operator `fwd`, in the order of its C++ tail.

    Attributes:
        dynamic: Blocks take tiles from a queue in device memory; without it, each tile has a block.
        box_rows_q: Rows of one TMA box of q; 0 for a kernel without tensor maps, as in the next two.
        box_rows_kv: Rows of one TMA box of k and of v.
        box_rows_out: Rows of one TMA box of out.
        min_seqlen_q: Least seqlen_q that the kernel serves. Of several kernels that serve a call, the one
            with the greatest minimum is launched.
        value_slices: Slices of `head_dim_v`; a tile computes one of them.
        packs_gqa: The query heads of one key head can share a tile.
    """

    dynamic: bool
    box_rows_q: int
    box_rows_kv: int
    box_rows_out: int
    min_seqlen_q: int
    value_slices: int
    packs_gqa: bool


def head_dims_name(head_dim: int, head_dim_v: int) -> str:
    """Return the head dimensions as the name of a variant has them: `d128`, `d192x128`."""
    return f"d{head_dim}" if head_dim == head_dim_v else f"d{head_dim}x{head_dim_v}"
