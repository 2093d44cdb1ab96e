"""Forward under autograd. There is no backward kernel yet: a backward pass raises, always."""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor

_forward = torch.ops.flash_attn3.fwd.default
_forward_general = torch.ops.flash_attn3.fwd_general.default

# The refusal is an operator, so that a compiled graph, which is traced with its backward, can be run forward.
# It stands for the gradient of one input, so that no graph can do without it.
_operators = torch.library.Library("flash_attn3", "FRAGMENT")
_operators.define("refuse_backward(Tensor input) -> Tensor")


def _refuse_backward(_input: Tensor) -> NoReturn:
    raise NotImplementedError(
        "flash_attn3 has no backward kernel yet: "
        "call attention under torch.no_grad(), or on tensors that need no gradient"
    )


_operators.impl("refuse_backward", _refuse_backward, "CompositeExplicitAutograd")
torch.library.register_fake("flash_attn3::refuse_backward", torch.empty_like, lib=_operators)
_refused = torch.ops.flash_attn3.refuse_backward.default


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
        q, k, v = ctx.saved_tensors
        return _refused(q), _refused(k), _refused(v), None, None, None

    @staticmethod
    def vmap(_info: object, _in_dims: object, *_arguments: Any) -> NoReturn:
        """Raise NotImplementedError."""
        raise NotImplementedError(
            "flash_attn3 does not support torch.vmap: use the batch dimension of its functions instead"
        )


class GeneralForwardOnly(torch.autograd.Function):
    """The same for the operator with every option; its sink may require a gradient, too."""

    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, Tensor]:
        """Return (out, lse) for the operator's arguments."""
        out, lse = _forward_general(*arguments)
        return out, lse

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ARG004  torch fixes the names
        """Keep what the backward pass is told about."""
        ctx.save_for_backward(*inputs[:3], inputs[8])

    @staticmethod
    def backward(ctx: Any, *_gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Raise NotImplementedError."""
        q, k, v, sink = ctx.saved_tensors
        refused_sink = None if sink is None else _refused(sink)
        return _refused(q), _refused(k), _refused(v), *(None,) * 5, refused_sink, *(None,) * 9

    vmap = ForwardOnly.vmap
