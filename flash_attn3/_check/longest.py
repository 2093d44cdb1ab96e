"""The length of the longest packed sequence, in the forms that callers have it in."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_INTEGERS = frozenset({torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8})


def read_longest(name: str, given: Any, packed: Any) -> Any:
    """Return a longest length as the operators take it; what is no tensor is left to them.

    It may be a tensor of one element, as ``cu_seqlens.diff().max()`` is. To read it from a device would wait
    for the device, and break a graph that torch traces. It is only an upper bound, on which no bit of the
    results depends, so the rows of all sequences together stand for it there. Elsewhere a nearer bound is
    better: the kernels choose by it how many heads share a tile.

    Args:
        name: of the argument.
        given: the argument.
        packed: the tensor of the sequences, (total, heads, head_dim).

    Raises:
        TypeError: a tensor that holds no integers.
        ValueError: a tensor that holds more than one.
    """
    if not isinstance(given, Tensor):
        return given
    if given.dtype not in _INTEGERS:
        raise TypeError(f"{name} must be an integer or a tensor of one; its dtype is {given.dtype}")
    if given.numel() != 1:
        raise ValueError(
            f"{name} must be an integer or a tensor of one; the shape of the tensor is {tuple(given.shape)}"
        )
    # A tensor that torch traces is of another class, or looks like this one to the compiler alone.
    if given.device.type == "cpu" and type(given) is Tensor and not torch.compiler.is_compiling():
        return int(given)
    return packed.shape[0] if isinstance(packed, Tensor) and packed.ndim > 0 else 0
