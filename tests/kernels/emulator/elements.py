"""16-bit elements as uint16 patterns, since NumPy has no bf16."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

NAN = 0xFFFF  # of fp16 and of bf16


def encode(values: NDArray[np.float32], dtype: str) -> NDArray[np.uint16]:
    """Round to `fp16` or `bf16`, ties to even. Finite values only."""
    if dtype == "fp16":
        return values.astype(np.float16).view(np.uint16)
    bits = np.ascontiguousarray(values).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def decode(bits: NDArray[np.uint16], dtype: str) -> NDArray[np.float64]:
    """Return the values."""
    if dtype == "fp16":
        return np.ascontiguousarray(bits).view(np.float16).astype(np.float64)
    return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def unit(dtype: str) -> float:
    """Return the largest relative error of a rounding."""
    return {"fp16": 2.0**-11, "bf16": 2.0**-8}[dtype]
