"""What torch needs to know of the operators beside running them: shapes without data, and no vmap."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from flash_attn3._arguments import check_scalars, check_tensors


def register() -> None:
    """Register the fake kernel and the refusal of vmap with the operators that are already loaded."""
    torch.library.register_fake("flash_attn3::fwd", forward_shapes)
    torch.library.register_vmap("flash_attn3::fwd", _refuse_vmap)


def forward_shapes(  # noqa: PLR0917  the operator's order
    q: Tensor, k: Tensor, v: Tensor, softmax_scale: float, causal: bool, sm_margin: int
) -> tuple[Tensor, Tensor]:
    """Return tensors as attention forward returns them, contiguous, without data.

    Raises:
        TypeError, ValueError, NotImplementedError: as ``flash_attn3.flash_attn_func`` does.
    """
    check_tensors(q, k, v)
    check_scalars(softmax_scale, causal)
    if sm_margin < 0:
        raise ValueError(f"sm_margin must be 0 or more; it is {sm_margin}")
    batch, seqlen_q, heads, _ = q.shape
    out = q.new_empty((batch, seqlen_q, heads, v.shape[3]))
    lse = q.new_empty((batch, heads, seqlen_q), dtype=torch.float32)
    return out, lse


def _refuse_vmap(_info: object, _in_dims: object, *_arguments: Any) -> None:
    raise NotImplementedError("flash_attn_func does not support torch.vmap: use its batch dimension instead")
