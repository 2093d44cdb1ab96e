"""Tensors without data, and what reaches flash_attn3's own operators when somebody calls with them."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

SHAPE_Q, SHAPE_K = (2, 16, 4, 64), (2, 24, 2, 64)


def empty(shape: tuple[int, ...], dtype: torch.dtype = torch.bfloat16, **options: Any) -> torch.Tensor:
    """A tensor of this shape that has no data: what the operators make of it is its description alone."""
    return torch.empty(shape, dtype=dtype, device="meta", **options)


def dense() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return q, k and v of two sequences, 4 heads on 2."""
    return empty(SHAPE_Q), empty(SHAPE_K), empty(SHAPE_K)


def index(*shape: int) -> torch.Tensor:
    """An int32 tensor without data."""
    return empty(shape, torch.int32)


class Calls(TorchDispatchMode):
    """Keeps the calls of flash_attn3's operators: (name, arguments by name)."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, Any]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "flash_attn3":
            # torch passes no argument on that has its default and none other behind it
            named = {argument.name: argument.default_value for argument in func._schema.arguments}
            named |= dict(zip(named, args, strict=False)) | (kwargs or {})
            self.seen.append((func._opname, named))
        return func(*args, **(kwargs or {}))

    @property
    def only(self) -> tuple[str, dict[str, Any]]:
        """The one call that there was."""
        (call,) = self.seen
        return call
