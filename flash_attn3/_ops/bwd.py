"""The operators of attention backward, and the gradients of the forward operators by them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from flash_attn3._check.arguments import Lengths, Options, check_index, check_scalars
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


def _keep(ctx: Any, tensors: tuple[Any, ...], lengths: Lengths, options: Options, **scalars: Any) -> None:
    """Save what `_gradients` needs: q, k, v (or qkv), out, the LSE, and the arguments of the call."""
    arrays = (lengths.cu_seqlens_q, lengths.cu_seqlens_k, lengths.seqused_q, lengths.seqused_k, options.sink)
    ctx.save_for_backward(*tensors, *arrays)
    ctx.longest = lengths.max_seqlen_q, lengths.max_seqlen_k
    ctx.is_paged = lengths.page_table is not None
    ctx.options = options._replace(sink=None)
    ctx.scalars = scalars
    ctx.set_materialize_grads(False)


def _arguments(
    ctx: Any, operands: tuple[Tensor, ...], arrays: tuple[Any, ...], gradients: tuple[Tensor | None, ...]
) -> tuple[Any, ...]:
    """Return the arguments of ``flash_attn3::bwd``. `operands`: q, k, v, out and lse."""
    if ctx.is_paged:
        raise NotImplementedError(
            "page_table has no backward kernel: call attention on pages under torch.no_grad()"
        )
    q, k, v, out, lse = operands
    dout, dlse = gradients
    cu_seqlens_q, cu_seqlens_k, seqused_q, seqused_k, sink = arrays
    left, right, _, softcap, chunk, sm_margin = ctx.options
    deterministic = ctx.scalars["deterministic"] or torch.are_deterministic_algorithms_enabled()
    return (
        *(torch.zeros_like(out) if dout is None else dout, q, k, v, out, lse, dlse),
        *(ctx.scalars["softmax_scale"], ctx.scalars["causal"]),
        *(cu_seqlens_q, cu_seqlens_k, *ctx.longest, seqused_q, seqused_k),
        *(left, right, sink, softcap, chunk, deterministic, sm_margin),
    )


def _run(arguments: tuple[Any, ...]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Call ``flash_attn3::bwd``."""
    call = BWD.with_gradient if torch.is_grad_enabled() else BWD.call
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
    """Forward operators of q, k and v. A subclass calls its operator in forward, and `keep_call` to keep it.

    Inputs: q, k, v, softmax_scale, causal, deterministic, then what the operator takes behind causal.
    """

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the gradients of q, k, v and the sink."""
        saved = ctx.saved_tensors
        dq, dk, dv, dsink = _run(_arguments(ctx, saved[:5], saved[5:], gradients))
        results: list[Tensor | None] = [dq, dk, dv, *(None,) * (ctx.inputs - 3)]
        if saved[-1] is not None:
            results[ctx.sink_at] = dsink
        return tuple(results)


def keep_call(ctx: Any, inputs: tuple[Any, ...], output: Any, count: int) -> None:
    """Save what the gradient of a call needs. `count`: of `Lengths`, those that its operator takes."""
    q, k, v, softmax_scale, causal, deterministic, *arguments = inputs
    out, lse = output
    _keep(
        ctx, (q, k, v, out, lse), Lengths(*arguments[:count]), Options(*arguments[count:]),
        softmax_scale=softmax_scale, causal=causal, deterministic=deterministic,
    )  # fmt: skip
    ctx.sink_at = 6 + count + Options._fields.index("sink")
    ctx.inputs = len(inputs)


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
        qkv, heads_q, softmax_scale, causal, deterministic, *options = inputs
        out, lse = output
        _keep(
            ctx, (qkv, out, lse), Lengths(), Options(*options),
            softmax_scale=softmax_scale, causal=causal, deterministic=deterministic,
        )  # fmt: skip
        ctx.heads_q = heads_q
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
        sink_at = 5 + Options._fields.index("sink")
        results: list[Tensor | None] = [dqkv, *(None,) * (ctx.inputs - 1)]
        if arrays[-1] is not None:
            results[sink_at] = dsink
        return tuple(results)
