"""Attention with every option: the one way from the public functions to the general operators."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from flash_attn3 import _autograd
from flash_attn3._arguments import check_scalars, open_window
from flash_attn3._tensors import Extras, check_tensors

_forward_general = torch.ops.flash_attn3.fwd_general.default
_forward_into = torch.ops.flash_attn3.fwd_into.default

# What the operators' own refusal, and arguments too wrong to reach them, raise.
REFUSALS = (RuntimeError, AttributeError, TypeError, IndexError, ZeroDivisionError)

# cu_seqlens_q, cu_seqlens_k, seqused_q, seqused_k, page_table
Sequences = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None, Tensor | None]
NO_SEQUENCES: Sequences = (None, None, None, None, None)


def forward_general(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    sequences: Sequences,
    sink: Tensor | None,
    max_seqlens: tuple[int, int] | None,
    softmax_scale: float | None,
    causal: bool,
    window: tuple[int, int],
    attention_chunk: int,
    softcap: float,
    sm_margin: int,
    out: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Return (out, lse). Arguments that are not described here are those of the public functions.

    Args:
        q: (batch, seqlen_q, heads, head_dim) or (total_q, heads, head_dim).
        k: the same with its own lengths, or (pages, page_size, heads_kv, head_dim).
        v: like k.
        sequences: (cu_seqlens_q, cu_seqlens_k, seqused_q, seqused_k, page_table).
        sink: (heads,), any floating dtype.
        max_seqlens: of q and of k. None: every sequence has the length of its tensor, and the window is
            fitted to these.
        softmax_scale: ``head_dim ** -0.5`` when None.
        causal: makes the window's right limit 0.
        window: (left, right), -1 where it has no limit.
        attention_chunk: 0 for none.
        softcap: 0 for none.
        sm_margin: 0 or more.
        out: None allocates.

    Raises:
        TypeError, ValueError, NotImplementedError, RuntimeError: as the public functions do.
    """
    given_sink = sink
    try:
        scale = q.shape[-1] ** -0.5 if softmax_scale is None else softmax_scale
        # A graph for any length must not depend on which lengths a window exceeds.
        if max_seqlens is None and not torch.compiler.is_compiling():
            window = open_window(window, q.shape[1], k.shape[1])
        if sink is not None and sink.dtype.is_floating_point:
            sink = sink.float().contiguous()
        arguments: tuple[Any, ...] = (
            *(q, k, v, *sequences, sink, *(max_seqlens or (0, 0)), scale, causal),
            *(*window, attention_chunk, softcap, sm_margin),
        )
        needs_grad = torch.is_grad_enabled() and (
            q.requires_grad or k.requires_grad or v.requires_grad or (sink is not None and sink.requires_grad)
        )
        if not needs_grad:
            if out is None:
                out, lse = _forward_general(*arguments)
                return out, lse
            return out, _forward_into(*arguments, out)
        if out is None:
            return _autograd.run(_forward_general, arguments)
    except REFUSALS as error:
        extras = Extras(*sequences, given_sink, out)
        raise explain(error, (q, k, v), extras, softmax_scale, causal) from None
    raise ValueError("out must be None when q, k, v or learnable_sink requires a gradient")


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
