"""Tensors without data, for calls whose way to the operators is observed."""

from __future__ import annotations

from typing import Any

import torch

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
