"""Operators under autograd: the base class of every operator that is called on inputs with a gradient.

Each such operator has a class of its own, whose ``forward`` names the operator: torch.compile cannot trace
an operator that is passed to a class as an argument.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor

from flash_attn3._ops.operator import refuse_vmap
from flash_attn3._ops.refuse_backward import REFUSE_BACKWARD

if TYPE_CHECKING:
    from collections.abc import Callable

_refuse_backward = REFUSE_BACKWARD.call

_transforms_are_active: Callable[[], bool] | None = None
with suppress(ImportError):  # torch has no public names for these; without them, calls take the slower way
    from torch._C import _are_functorch_transforms_active
    from torch._functorch.utils import unwrap_dead_wrappers

    _transforms_are_active = _are_functorch_transforms_active


class Differentiable(torch.autograd.Function):
    """An operator with a backward pass: a subclass defines forward, setup_context and backward."""

    @classmethod
    def apply(cls, *arguments: Any) -> Any:
        """Call forward, and record the call for the backward pass.

        The method of torch.autograd.Function does the same, but first binds the arguments to the signature of
        forward, which takes longer than all the rest.
        """
        if _transforms_are_active is None or _transforms_are_active():
            return super().apply(*arguments)  # type: ignore[no-untyped-call]
        return super(torch.autograd.Function, cls).apply(*unwrap_dead_wrappers(arguments))  # type: ignore[misc]

    @staticmethod
    def vmap(info: object, in_dims: object, *arguments: Any) -> NoReturn:
        """Raise NotImplementedError."""
        refuse_vmap(info, in_dims, *arguments)


class ForwardOnly(Differentiable):
    """An operator without a backward kernel: its backward pass raises NotImplementedError."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ARG004  torch fixes the names
        """Keep the floating tensors, which alone have gradients."""
        ctx.save_for_backward(*(value if _is_floating(value) else None for value in inputs))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Raise NotImplementedError."""
        return tuple(
            None if saved is None else _refuse_backward(saved, gradients) for saved in ctx.saved_tensors
        )


def _is_floating(value: object) -> bool:
    return isinstance(value, Tensor) and value.dtype.is_floating_point
