"""Attention with options: the one way from the public functions to the operators that take any."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from flash_attn3._check.arguments import NO_LENGTHS, check_scalars
from flash_attn3._check.tensors import Extras, check_tensors
from flash_attn3._ops import autograd

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

# The shortest operator that a call can do with: of dense batches, of packed sequences, of everything.
forward_masked = torch.ops.flash_attn3.fwd_masked.default
forward_varlen = torch.ops.flash_attn3.fwd_varlen.default
forward_general = torch.ops.flash_attn3.fwd_general.default
_forward_into = torch.ops.flash_attn3.fwd_into.default

# What the operators' own refusal, and arguments too wrong to reach them, raise.
REFUSALS = (RuntimeError, AttributeError, TypeError)


def forward(  # noqa: PLR0917  by position: an eager call has no microsecond to spend on names
    operator: Callable[..., Any],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    softmax_scale: float | None,
    causal: bool,
    lengths: tuple[Any, ...],
    options: tuple[Any, ...],
    out: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Return (out, lse) of a public function, where the arguments are described.

    Args:
        operator: one of those above.
        q: as in the public functions, and so are k and v.
        k: see q.
        v: see q.
        softmax_scale: None for the default.
        causal: a bool.
        lengths: those of `NO_LENGTHS` that the operator takes.
        options: as `resolve_options` returns them; the sink may have any floating dtype.
        out: the tensor to write to, or None.

    Raises:
        TypeError, ValueError, NotImplementedError, RuntimeError: as the public functions do.
    """
    given_sink = options[2] if len(options) > 2 else None
    try:
        if given_sink is not None and (sink := _plain(given_sink)) is not given_sink:
            options = (*options[:2], sink, *options[3:])
        needs_grad = torch.is_grad_enabled() and (
            (q.requires_grad or k.requires_grad or v.requires_grad)
            or (given_sink is not None and given_sink.requires_grad)
        )
        if out is None and not needs_grad:
            written, lse = operator(q, k, v, softmax_scale, causal, *lengths, *options)
            return written, lse
        if lengths or options:
            lengths += NO_LENGTHS[len(lengths) :]
        arguments = (q, k, v, softmax_scale, causal, *lengths, *options)
        if out is None:
            return autograd.run(autograd.GeneralForwardOnly, arguments)
        if not needs_grad:
            return out, _forward_into(out, *arguments)
    except REFUSALS as error:
        extras = _extras(lengths, given_sink, out)
        raise explain(error, (q, k, v), extras, softmax_scale, causal) from None
    raise ValueError("out must be None when q, k, v or learnable_sink requires a gradient")


def _plain(sink: Tensor) -> Tensor:
    """Return the sink as the operators take it; one that is no floating tensor unchanged, to be refused."""
    if sink.dtype is not torch.float32 and sink.dtype.is_floating_point:
        sink = sink.float()
    return sink if sink.is_contiguous() else sink.contiguous()


def _extras(lengths: tuple[Any, ...], sink: object, out: object) -> Extras:
    lengths += NO_LENGTHS[len(lengths) :]
    cu_seqlens_q, cu_seqlens_k, _, _, seqused_q, seqused_k, page_table = lengths
    return Extras(cu_seqlens_q, cu_seqlens_k, seqused_q, seqused_k, page_table, sink, out)


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
        check_scalars(softmax_scale, causal)
        check_tensors(*tensors, extras)
    except (TypeError, ValueError, NotImplementedError) as clearer:
        return clearer
    return error
