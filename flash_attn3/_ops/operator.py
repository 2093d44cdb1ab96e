"""What torch and the public functions need of an operator beside its C++ implementation: one record each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

REFUSALS = (RuntimeError, AttributeError, TypeError)
"""What an operator raises for a wrong argument, and what Python raises for one that is no tensor at all."""
_UNALLOCATED = "could not be allocated"  # the operators' words
_FAULT = "CUDA error"  # torch's words for another reason than too little memory


def refuse_vmap(_info: object, _in_dims: object, *_arguments: Any) -> NoReturn:
    """Raise NotImplementedError."""
    raise NotImplementedError(
        "flash_attn3 does not support torch.vmap: use the batch dimension of its functions instead"
    )


def explain(error: Exception, check: Callable[..., None], *arguments: Any) -> Exception:
    """Return the error that ``check`` raises for the arguments, or ``error`` itself when it raises none.

    The operators check everything in C++, where it is fast, and can raise only RuntimeError. So the checks
    that raise the right type of error run only when a call has failed. A result or workspace without room
    becomes torch.OutOfMemoryError, as in torch.
    """
    if _UNALLOCATED in str(error) and _FAULT not in str(error):
        return torch.OutOfMemoryError(str(error))
    try:
        check(*arguments)
    except (TypeError, ValueError, NotImplementedError) as clearer:
        return clearer
    return error


@dataclass(frozen=True)
class Operator:
    """The operator ``flash_attn3::<name>``.

    Attributes:
        kernel: the operator of the kernel pack that computes it, for example ``fwd``.
        check: takes the arguments of the operator and raises TypeError, ValueError or NotImplementedError,
            naming the argument, where the operator cannot take them.
        describe: takes the same arguments, checked, and returns the results as tensors without data.
        autograd: calls the operator on inputs that require a gradient (a ``Differentiable``); None where
            nothing does.
    """

    name: str
    kernel: str
    check: Callable[..., None]
    describe: Callable[..., Any]
    autograd: type[torch.autograd.Function] | None = None

    @property
    def call(self) -> torch._ops.OpOverload:
        """The operator itself."""
        overload: torch._ops.OpOverload = getattr(torch.ops.flash_attn3, self.name).default
        return overload

    def register(self) -> None:
        """Register the fake implementation, which checks like a real call, and the refusal of vmap."""
        torch.library.register_fake(f"flash_attn3::{self.name}", self._fake)
        torch.library.register_vmap(f"flash_attn3::{self.name}", refuse_vmap)

    def _fake(self, *arguments: Any) -> Any:
        self.check(*arguments)
        return self.describe(*arguments)

    def explain(self, error: Exception, *arguments: Any) -> Exception:
        """Return the error that names the wrong argument, or ``error`` itself when no argument is wrong."""
        return explain(error, self.check, *arguments)

    def with_gradient(self, *arguments: Any) -> Any:
        """Call the operator on inputs of which one requires a gradient."""
        if self.autograd is None:
            raise TypeError(f"flash_attn3::{self.name} takes no input that requires a gradient")
        if torch.compiler.is_compiling():
            arguments = tuple(_distinct(arguments))
        return self.autograd.apply(*arguments)


def _distinct(arguments: tuple[Any, ...]) -> list[Any]:
    """Return the arguments with a view in place of a tensor that was passed before.

    torch.compile traces no autograd.Function that gets a tensor twice, as in a call whose q and k share
    cu_seqlens.
    """
    distinct: list[Any] = []
    for argument in arguments:
        repeated = isinstance(argument, torch.Tensor) and any(argument is other for other in distinct)
        distinct.append(argument.view_as(argument) if repeated else argument)
    return distinct
