"""Calls of the forward operators with options, lengths, gradients or an output tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from flash_attn3._check.arguments import NO_LENGTHS
from flash_attn3._check.qkvpacked import unpack
from flash_attn3._ops.fwd import FWD_GENERAL, FWD_INTO, FWD_MASKED, FWD_QKVPACKED, FWD_VARLEN
from flash_attn3._ops.operator import REFUSALS

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

# Of dense batches, of packed sequences, of everything: a call takes the first that has its arguments.
forward_masked = FWD_MASKED.call
forward_varlen = FWD_VARLEN.call
forward_general = FWD_GENERAL.call
_forward_into = FWD_INTO.call


def forward(  # noqa: PLR0917  by position: keywords cost host time
    operator: Callable[..., Any],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    softmax_scale: float | None,
    causal: bool,
    lengths: tuple[Any, ...],
    options: tuple[Any, ...],
    out: Tensor | None,
    deterministic: bool,
) -> tuple[Tensor, Tensor]:
    """Return (out, lse) of a public function, which describes the arguments.

    Args:
        operator: one of the three above.
        q: as in the public functions.
        k: likewise.
        v: likewise.
        softmax_scale: likewise.
        causal: likewise.
        lengths: the first of `Lengths`, as many as the operator takes.
        options: as `resolve_options` returns them; the sink may have any floating dtype.
        out: the tensor to write to, or None.
        deterministic: of the backward pass.

    Raises:
        TypeError, ValueError, NotImplementedError, RuntimeError: as the public functions do.
    """
    sink = options[2] if len(options) > 2 else None
    try:
        if sink is not None and (plain_sink := _to_float32(sink)) is not sink:
            options = (*options[:2], plain_sink, *options[3:])
        needs_grad = torch.is_grad_enabled() and (
            (q.requires_grad or k.requires_grad or v.requires_grad)
            or (sink is not None and sink.requires_grad)
        )
        if out is None and not needs_grad:
            written, lse = operator(q, k, v, softmax_scale, causal, *lengths, *options)
            return written, lse
        lengths += NO_LENGTHS[len(lengths) :]
        if out is None:
            written, lse = FWD_GENERAL.with_gradient(
                q, k, v, softmax_scale, causal, deterministic, *lengths, *options
            )
            return written, lse
        if not needs_grad:
            return out, _forward_into(out, q, k, v, softmax_scale, causal, *lengths, *options)
    except REFUSALS as error:
        lengths += NO_LENGTHS[len(lengths) :]
        arguments = (q, k, v, softmax_scale, causal, *lengths, *options)
        if out is None:
            raise FWD_GENERAL.explain(error, *arguments) from None
        raise FWD_INTO.explain(error, out, *arguments) from None
    raise ValueError("out must be None when q, k, v or learnable_sink requires a gradient")


def needs_gradient(qkv: Tensor, options: tuple[Any, ...]) -> bool:
    """Whether autograd records a call on a packed tensor."""
    sink = options[2] if len(options) > 2 else None
    return torch.is_grad_enabled() and (
        qkv.requires_grad or (isinstance(sink, torch.Tensor) and sink.requires_grad)
    )


def forward_packed(  # noqa: PLR0917  by position, as above
    qkv: Tensor,
    num_heads_q: int | None,
    softmax_scale: float | None,
    causal: bool,
    options: tuple[Any, ...],
    deterministic: bool,
) -> tuple[Tensor, Tensor]:
    """Return (out, lse) of a packed tensor that needs a gradient, which is one tensor, too.

    Raises:
        TypeError, ValueError, NotImplementedError, RuntimeError: as the public functions do.
    """
    try:
        if len(options) > 2 and options[2] is not None:
            options = (*options[:2], _to_float32(options[2]), *options[3:])
        out, lse = FWD_QKVPACKED.with_gradient(
            qkv, num_heads_q, softmax_scale, causal, deterministic, *options
        )
    except REFUSALS as error:
        q, k, v = unpack(qkv, num_heads_q)
        raise FWD_MASKED.explain(error, q, k, v, softmax_scale, causal, *options) from None
    return out, lse


def _to_float32(sink: Tensor) -> Tensor:
    """Return the sink contiguous and in float32, as the operators take it; another dtype is left to them."""
    if sink.dtype is not torch.float32 and sink.dtype.is_floating_point:
        sink = sink.float()
    return sink if sink.is_contiguous() else sink.contiguous()
