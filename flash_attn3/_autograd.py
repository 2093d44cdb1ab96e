"""Operators under autograd. There is no backward kernel yet: a backward pass raises, always."""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor

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
    """Any operator of this package that returns (out, lse), called on inputs that require a gradient."""

    @staticmethod
    def forward(operator: Any, *arguments: Any) -> tuple[Tensor, Tensor]:
        """Return (out, lse) of the operator for its arguments."""
        out, lse = operator(*arguments)
        return out, lse

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ARG004  torch fixes the names
        """Keep what the backward pass is told about: the floating tensors, which alone have gradients."""
        ctx.differentiable = [isinstance(value, Tensor) and value.dtype.is_floating_point for value in inputs]
        ctx.save_for_backward(
            *(value for value, kept in zip(inputs, ctx.differentiable, strict=True) if kept)
        )

    @staticmethod
    def backward(ctx: Any, *_gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Raise NotImplementedError."""
        saved = iter(ctx.saved_tensors)
        return tuple(_refused(next(saved)) if kept else None for kept in ctx.differentiable)

    @staticmethod
    def vmap(_info: object, _in_dims: object, *_arguments: Any) -> NoReturn:
        """Raise NotImplementedError."""
        raise NotImplementedError(
            "flash_attn3 does not support torch.vmap: use the batch dimension of its functions instead"
        )


def run(operator: Any, arguments: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
    """Call an operator on inputs of which one requires a gradient; its backward pass raises."""
    # torch leaves Function.apply without annotations
    out, lse = ForwardOnly.apply(operator, *_distinct(arguments))  # type: ignore[no-untyped-call]
    return out, lse


def _distinct(arguments: tuple[Any, ...]) -> list[Any]:
    """Return the arguments, each tensor once: torch.compile traces no autograd.Function that gets one twice.

    It is what a call gets whose q and k share their cu_seqlens.
    """
    distinct: list[Any] = []
    for argument in arguments:
        repeated = isinstance(argument, Tensor) and any(argument is other for other in distinct)
        distinct.append(argument.view_as(argument) if repeated else argument)
    return distinct
