"""Attention with every option: the one way from the public functions to the general operators."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from flash_attn3 import _autograd
from flash_attn3._arguments import check_scalars
from flash_attn3._tensors import Extras, check_tensors

_forward_general = torch.ops.flash_attn3.fwd_general.default
_forward_into = torch.ops.flash_attn3.fwd_into.default

# What the operators' own refusal, and arguments too wrong to reach them, raise.
REFUSALS = (RuntimeError, AttributeError, TypeError, IndexError, ZeroDivisionError)


def forward_general(  # noqa: PLR0917  by position: an eager call has no microsecond to spend on names
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor | None,
    cu_seqlens_k: Tensor | None,
    seqused_q: Tensor | None,
    seqused_k: Tensor | None,
    page_table: Tensor | None,
    sink: Tensor | None,
    max_seqlen_q: int,
    max_seqlen_k: int,
    softmax_scale: float | None,
    causal: bool,
    window: tuple[int, int],
    attention_chunk: int,
    softcap: float,
    sm_margin: int,
    out: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Return (out, lse). The arguments are those of the public functions, where they are described.

    The sink may have any floating dtype; max_seqlen_q and max_seqlen_k are 0 without cu_seqlens; the window
    is (left, right), -1 where it has no limit.

    Raises:
        TypeError, ValueError, NotImplementedError, RuntimeError: as the public functions do.
    """
    given_sink = sink
    try:
        scale = q.shape[-1] ** -0.5 if softmax_scale is None else softmax_scale
        if sink is not None:
            sink = _plain(sink)
        # In the operators' order, and no more than is needed: each costs time, and its default there less.
        arguments: tuple[Any, ...] = (q, k, v, scale, causal, cu_seqlens_q, cu_seqlens_k)
        if seqused_k is not None or seqused_q is not None or page_table is not None:
            arguments += (max_seqlen_q, max_seqlen_k, *window, sink, softcap, attention_chunk, sm_margin)
            arguments += (seqused_q, seqused_k, page_table)
        elif softcap != 0.0 or attention_chunk != 0 or sm_margin != 0:
            arguments += (max_seqlen_q, max_seqlen_k, *window, sink, softcap, attention_chunk, sm_margin)
        elif sink is not None:
            arguments += (max_seqlen_q, max_seqlen_k, *window, sink)
        elif window != (-1, -1):
            arguments += (max_seqlen_q, max_seqlen_k, *window)
        else:
            arguments += (max_seqlen_q, max_seqlen_k)
        needs_grad = torch.is_grad_enabled() and (
            q.requires_grad or k.requires_grad or v.requires_grad or (sink is not None and sink.requires_grad)
        )
        if not needs_grad:
            if out is not None:
                return out, _forward_into(out, *arguments)
            written, lse = _forward_general(*arguments)
            return written, lse
        if out is None:
            return _autograd.run(_autograd.GeneralForwardOnly, arguments)
    except REFUSALS as error:
        extras = Extras(cu_seqlens_q, cu_seqlens_k, seqused_q, seqused_k, page_table, given_sink, out)
        raise explain(error, (q, k, v), extras, softmax_scale, causal) from None
    raise ValueError("out must be None when q, k, v or learnable_sink requires a gradient")


def _plain(sink: Tensor) -> Tensor:
    """Return the sink as the operators take it; one that is no floating tensor unchanged, to be refused."""
    if sink.dtype is not torch.float32 and sink.dtype.is_floating_point:
        sink = sink.float()
    return sink if sink.is_contiguous() else sink.contiguous()


def explain(
    error: Exception,
    tensors: tuple[Tensor, Tensor, Tensor],
    extras: Extras,
    softmax_scale: float | None,
    causal: bool,
) -> Exception:
    """Return the error that names the wrong argument, or ``error`` itself when no argument is wrong.

    The operators check everything in C++ and can raise only RuntimeError. The slower checks that know the
    right kind of error run here, after the fact, because an eager call has no microseconds to spend on them.
    """
    try:
        check_scalars(0.0 if softmax_scale is None else softmax_scale, causal)
        check_tensors(*tensors, extras)
    except (TypeError, ValueError, NotImplementedError) as clearer:
        return clearer
    return error
