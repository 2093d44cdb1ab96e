"""Attention backward with the arguments of FlashAttention-3, for the operator ``bwd``."""

from __future__ import annotations

import torch
from torch import Tensor

from flash_attn3._ops.bwd import run_into
from flash_attn_3._longest import longest
from flash_attn_3._refusals import require_tensors

_UNUSED_RESULTS = 5  # of the operator: sums that the kernels of flash_attn3 do not return


def flash_attn_backward(  # noqa: PLR0917  callers pass these by position
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    softmax_lse: Tensor,
    dq: Tensor | None = None,
    dk: Tensor | None = None,
    dv: Tensor | None = None,
    cu_seqlens_q: Tensor | None = None,
    cu_seqlens_k: Tensor | None = None,
    seqused_q: Tensor | None = None,
    seqused_k: Tensor | None = None,
    max_seqlen_q: int | None = None,
    max_seqlen_k: int | None = None,
    softmax_scale: float | None = None,
    is_causal: bool = False,
    window_size_left: int = -1,
    window_size_right: int = -1,
    softcap: float = 0.0,
    deterministic: bool = False,
    sm_margin: int = 0,
) -> tuple[Tensor, ...]:
    """Write the gradients of q, k and v to dq, dk and dv.

    Sequences and options are those of the forward call, whose results are ``out`` and ``softmax_lse``;
    ``dout`` is the gradient of ``out``. The buffers may have any strides; a gradient without one is lost.

    Returns:
        Five tensors without elements, in place of sums that other implementations return.

    Raises:
        TypeError, ValueError: an argument is wrong; the text names it.
    """
    require_tensors(
        dout=dout, q=q, k=k, v=v, out=out, softmax_lse=softmax_lse, dq=dq, dk=dk, dv=dv,
        cu_seqlens_q=cu_seqlens_q, cu_seqlens_k=cu_seqlens_k, seqused_q=seqused_q, seqused_k=seqused_k,
    )  # fmt: skip
    buffers = (
        torch.empty_like(tensor) if given is None else given for given, tensor in ((dq, q), (dk, k), (dv, v))
    )
    run_into(
        *buffers, dout, q, k, v, out, softmax_lse, None, softmax_scale, is_causal,
        cu_seqlens_q, cu_seqlens_k,
        longest("max_seqlen_q", max_seqlen_q, cu_seqlens_q),
        longest("max_seqlen_k", max_seqlen_k, cu_seqlens_k),
        seqused_q, seqused_k, window_size_left, window_size_right,
        None, softcap, 0, deterministic, sm_margin,
    )  # fmt: skip
    return tuple(q.new_empty(0, dtype=torch.float32) for _ in range(_UNUSED_RESULTS))
