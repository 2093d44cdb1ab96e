"""Operators under autograd. There is no backward kernel yet: a backward pass raises, always."""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor

# The refusal is an operator, so that a compiled graph, which is traced with its backward, can be run forward.
# It stands for the gradient of one input, so that no graph can do without it, and takes the gradients of the
# results, so that none can run it forward.
_operators = torch.library.Library("flash_attn3", "FRAGMENT")
_operators.define("refuse_backward(Tensor input, Tensor[] gradients) -> Tensor")


def _refuse_backward(_input: Tensor, _gradients: list[Tensor]) -> NoReturn:
    raise NotImplementedError(
        "flash_attn3 has no backward kernel yet: "
        "call attention under torch.no_grad(), or on tensors that need no gradient"
    )


_operators.impl("refuse_backward", _refuse_backward, "CompositeExplicitAutograd")
torch.library.register_fake(
    "flash_attn3::refuse_backward", lambda tensor, _gradients: torch.empty_like(tensor), lib=_operators
)
_refused = torch.ops.flash_attn3.refuse_backward.default


class _ForwardOnly(torch.autograd.Function):
    """An operator that returns (out, lse), called on inputs that require a gradient.

    Each operator has a class of its own: torch.compile need not trace one that is passed as an argument.
    """

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ARG004  torch fixes the names
        """Keep what the backward pass is told about: the floating tensors, which alone have gradients."""
        ctx.save_for_backward(*(value if _is_floating(value) else None for value in inputs))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Raise NotImplementedError."""
        return tuple(None if saved is None else _refused(saved, gradients) for saved in ctx.saved_tensors)

    @staticmethod
    def vmap(_info: object, _in_dims: object, *_arguments: Any) -> NoReturn:
        """Raise NotImplementedError."""
        raise NotImplementedError(
            "flash_attn3 does not support torch.vmap: use the batch dimension of its functions instead"
        )


class PlainForwardOnly(_ForwardOnly):
    """``flash_attn3::fwd``."""

    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, Tensor]:
        """Return (out, lse) for the operator's arguments."""
        out, lse = torch.ops.flash_attn3.fwd.default(*arguments)
        return out, lse


class GeneralForwardOnly(_ForwardOnly):
    """``flash_attn3::fwd_general``."""

    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, Tensor]:
        """Return (out, lse) for the operator's arguments."""
        out, lse = torch.ops.flash_attn3.fwd_general.default(*arguments)
        return out, lse


class CombineForwardOnly(_ForwardOnly):
    """``flash_attn3::combine``."""

    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, Tensor]:
        """Return (out, lse) for the operator's arguments."""
        out, lse = torch.ops.flash_attn3.combine.default(*arguments)
        return out, lse


def _is_floating(value: object) -> bool:
    return isinstance(value, Tensor) and value.dtype.is_floating_point


def run(function: type[_ForwardOnly], arguments: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
    """Call an operator on inputs of which one requires a gradient; its backward pass raises."""
    # torch leaves Function.apply without annotations
    out, lse = function.apply(*_distinct(arguments))  # type: ignore[no-untyped-call]
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
