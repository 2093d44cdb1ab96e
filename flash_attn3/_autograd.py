"""Forward under autograd. There is no backward kernel yet: a backward pass raises, always."""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor

_forward = torch.ops.flash_attn3.fwd.default

# The refusal is an operator, so that a compiled graph, which is traced with its backward, can be run forward.
_operators = torch.library.Library("flash_attn3", "FRAGMENT")
_operators.define("refuse_backward(Tensor q, Tensor k, Tensor v) -> (Tensor dq, Tensor dk, Tensor dv)")


def _refuse_backward(_q: Tensor, _k: Tensor, _v: Tensor) -> NoReturn:
    raise NotImplementedError(
        "flash_attn_func has no backward kernel yet: "
        "call it under torch.no_grad(), or on tensors that need no gradient"
    )


def _gradient_shapes(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


_operators.impl("refuse_backward", _refuse_backward, "CompositeExplicitAutograd")
torch.library.register_fake("flash_attn3::refuse_backward", _gradient_shapes, lib=_operators)


class ForwardOnly(torch.autograd.Function):
    """Attention forward for inputs that require a gradient."""

    @staticmethod
    def forward(  # noqa: PLR0917  the operator's order
        q: Tensor, k: Tensor, v: Tensor, softmax_scale: float, causal: bool, sm_margin: int
    ) -> tuple[Tensor, Tensor]:
        """Return (out, lse)."""
        out, lse = _forward(q, k, v, softmax_scale, causal, sm_margin)
        return out, lse

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ARG004  torch fixes the names
        """Keep what the backward pass is told about."""
        ctx.save_for_backward(*inputs[:3])

    @staticmethod
    def backward(ctx: Any, *_gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Raise NotImplementedError."""
        dq, dk, dv = torch.ops.flash_attn3.refuse_backward.default(*ctx.saved_tensors)
        return dq, dk, dv, None, None, None

    @staticmethod
    def vmap(_info: object, _in_dims: object, *_arguments: Any) -> NoReturn:
        """Raise NotImplementedError."""
        raise NotImplementedError(
            "flash_attn_func does not support torch.vmap: use its batch dimension instead"
        )
