"""The operators of attention backward, and the gradients of the forward operators by them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from flash_attn3._check.arguments import NO_LENGTHS, Lengths, Options, check_index, check_scalars
from flash_attn3._check.gradients import check_gradients
from flash_attn3._check.qkvpacked import unpack
from flash_attn3._check.tensors import check_tensors
from flash_attn3._ops.autograd import Differentiable, ForwardOnly
from flash_attn3._ops.operator import REFUSALS, Operator

if TYPE_CHECKING:
    from collections.abc import Sequence

_BUFFERS = 3  # for gradients, in front of the arguments of bwd_into
_REQUIRED = 9  # arguments of bwd without a default
_UNPAGED = 6  # of `Lengths`, those before page_table
_SINK = Options._fields.index("sink")
_DEFAULTS = NO_LENGTHS + Options()


class _Options(NamedTuple):
    """The options of the operators, in their order."""

    window_left: Any = -1
    window_right: Any = -1
    sink: Any = None
    softcap: Any = 0.0
    attention_chunk: Any = 0
    deterministic: Any = False
    sm_margin: Any = 0


def _check(  # noqa: PLR0917  the order of the operator
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    dlse: Tensor | None,
    softmax_scale: float | None,
    causal: bool,
    *arguments: Any,
    gradients: Sequence[Tensor] = (),
) -> None:
    lengths, options = Lengths(*arguments[:_UNPAGED]), _Options(*arguments[_UNPAGED:])
    check_scalars(softmax_scale, causal)
    check_tensors(q, k, v, lengths=lengths, sink=options.sink, op="bwd")
    check_gradients(q, k, v, out=out, dout=dout, lse=lse, dlse=dlse, gradients=gradients)
    if not isinstance(options.deterministic, bool):
        raise TypeError(f"deterministic must be a bool; its type is {type(options.deterministic).__name__}")
    check_index("sm_margin", options.sm_margin, 0)


def _describe_like(tensor: Tensor) -> Tensor:
    columns = tensor.shape[-1]
    padded = -(-columns // 8) * 8  # rows start at multiples of 16 bytes
    return tensor.new_empty((*tensor.shape[:-1], padded))[..., :columns]


def _describe_dsink(q: Tensor, arguments: tuple[Any, ...]) -> Tensor:
    sink = _Options(*arguments[_UNPAGED:]).sink
    return q.new_empty(0 if sink is None else q.shape[-2], dtype=torch.float32)


def _describe(
    _dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    _out: Tensor,
    _lse: Tensor,
    _dlse: Tensor | None,
    _scale: float | None,
    _causal: bool,
    *arguments: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _describe_like(q), _describe_like(k), _describe_like(v), _describe_dsink(q, arguments)


class BackwardForwardOnly(ForwardOnly):
    """``flash_attn3::bwd``, whose own gradient, a second derivative, has no kernel."""

    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return (dq, dk, dv, dsink) for the arguments of the operator."""
        dq, dk, dv, dsink = torch.ops.flash_attn3.bwd.default(*arguments)
        return dq, dk, dv, dsink


BWD = Operator("bwd", kernel="bwd", check=_check, describe=_describe, autograd=BackwardForwardOnly)


def _check_into(dq: Tensor, dk: Tensor, dv: Tensor, *arguments: Any) -> None:
    _check(*arguments, gradients=(dq, dk, dv))


def _describe_into(*arguments: Any) -> Tensor:
    q = arguments[_BUFFERS + 1]
    return _describe_dsink(q, arguments[_BUFFERS + _REQUIRED :])


BWD_INTO = Operator("bwd_into", kernel="bwd", check=_check_into, describe=_describe_into)


_call = BWD.call


def _keep(ctx: Any, operands: tuple[Tensor, ...], scalars: tuple[Any, ...], given: tuple[Any, ...]) -> None:
    """Save what `_arguments` needs.

    Args:
        ctx: of the autograd.Function.
        operands: q, k and v, or qkv; then out and lse.
        scalars: softmax_scale, causal and deterministic.
        given: the first of `Lengths` and `Options`.
    """
    cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, seqused_q, seqused_k, page_table, *options = (
        given + _DEFAULTS[len(given) :]
    )
    left, right, sink, softcap, chunk, sm_margin = options
    ctx.save_for_backward(*operands, cu_seqlens_q, cu_seqlens_k, seqused_q, seqused_k, sink)
    ctx.numbers = *scalars, max_seqlen_q, max_seqlen_k, left, right, softcap, chunk, sm_margin
    ctx.is_paged = page_table is not None
    ctx.set_materialize_grads(False)


def _arguments(
    ctx: Any, operands: tuple[Tensor, ...], arrays: tuple[Any, ...], gradients: tuple[Tensor | None, ...]
) -> tuple[Any, ...]:
    """Return the arguments of ``flash_attn3::bwd``. `operands`: q, k, v, out and lse."""
    if ctx.is_paged:
        raise NotImplementedError(
            "page_table has no backward kernel: call attention on pages under torch.no_grad()"
        )
    dout, dlse = gradients
    if dout is None:
        dout = torch.zeros_like(operands[3])
    cu_seqlens_q, cu_seqlens_k, seqused_q, seqused_k, sink = arrays
    scale, causal, deterministic, longest_q, longest_k, left, right, softcap, chunk, sm_margin = ctx.numbers
    deterministic = deterministic or torch.are_deterministic_algorithms_enabled()
    return (
        *(dout, *operands, dlse, scale, causal),
        *(cu_seqlens_q, cu_seqlens_k, longest_q, longest_k, seqused_q, seqused_k),
        *(left, right, sink, softcap, chunk, deterministic, sm_margin),
    )


def _run(arguments: tuple[Any, ...]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Call ``flash_attn3::bwd``."""
    call = BWD.with_gradient if torch.is_grad_enabled() else _call
    try:
        dq, dk, dv, dsink = call(*arguments)
    except REFUSALS as error:
        raise BWD.explain(error, *arguments) from None
    return dq, dk, dv, dsink


def run_into(*arguments: Any) -> Tensor:
    """Call ``flash_attn3::bwd_into``.

    Raises:
        TypeError, ValueError, RuntimeError: as attention does; the text names the argument.
    """
    try:
        dsink: Tensor = BWD_INTO.call(*arguments)
    except REFUSALS as error:
        raise BWD_INTO.explain(error, *arguments) from None
    return dsink


class AttentionGradient(Differentiable):
    """Forward operators of q, k and v. A subclass calls its operator in forward.

    Inputs: q, k, v, softmax_scale, causal, deterministic; then, where it takes them, `Lengths` and `Options`.
    """

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Keep q, k, v, out, the LSE and the arguments."""
        _keep(ctx, (*inputs[:3], *output), inputs[3:6], inputs[6:])
        ctx.inputs = len(inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the gradients of q, k, v and the sink."""
        saved = ctx.saved_tensors
        dq, dk, dv, dsink = _run(_arguments(ctx, saved[:5], saved[5:], gradients))
        results: list[Tensor | None] = [dq, dk, dv, *(None,) * (ctx.inputs - 3)]
        if saved[-1] is not None:
            results[6 + len(Lengths._fields) + _SINK] = dsink
        return tuple(results)


class PackedGradient(Differentiable):
    """Attention on one tensor of q, k and v, whose gradient is one tensor, too.

    Inputs: qkv, heads_q (None for a qkv of 5 dimensions), softmax_scale, causal, deterministic, `Options`.
    """

    @staticmethod
    def forward(
        qkv: Tensor,
        heads_q: int | None,
        softmax_scale: float | None,
        causal: bool,
        _deterministic: bool,
        *options: Any,
    ) -> tuple[Tensor, Tensor]:
        """Return (out, lse)."""
        out, lse = torch.ops.flash_attn3.fwd_masked.default(
            *unpack(qkv, heads_q), softmax_scale, causal, *options
        )
        return out, lse

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Keep qkv, out, the LSE and the arguments."""
        _keep(ctx, (inputs[0], *output), inputs[2:5], NO_LENGTHS + inputs[5:])
        ctx.heads_q = inputs[1]
        ctx.inputs = len(inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the gradients of qkv and the sink."""
        qkv, out, lse, *arrays = ctx.saved_tensors
        operands = (*unpack(qkv, ctx.heads_q), out, lse)
        arguments = _arguments(ctx, operands, tuple(arrays), gradients)
        if torch.is_grad_enabled():
            dq, dk, dv, dsink = _run(arguments)
            dqkv = torch.stack((dq, dk, dv), dim=2) if ctx.heads_q is None else torch.cat((dq, dk, dv), dim=2)
        else:
            dqkv = torch.empty_like(qkv)
            dsink = run_into(*unpack(dqkv, ctx.heads_q), *arguments)
        results: list[Tensor | None] = [dqkv, *(None,) * (ctx.inputs - 1)]
        if arrays[-1] is not None:
            results[5 + _SINK] = dsink
        return tuple(results)
