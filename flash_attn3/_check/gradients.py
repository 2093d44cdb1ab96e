"""Checks of the tensors that attention backward takes beside those of forward."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from flash_attn3._check.tensors import require_tensor

if TYPE_CHECKING:
    from collections.abc import Sequence


def check_gradients(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    out: Any,
    dout: Any,
    lse: Any,
    dlse: Any = None,
    gradients: Sequence[Any] = (),
) -> None:
    """Refuse results, gradients or buffers for gradients that do not fit q, k and v, which are checked.

    Raises:
        TypeError: an argument is no tensor or has a wrong dtype.
        ValueError: a device or a shape does not fit.
    """
    of_out = (*q.shape[:-1], v.shape[-1])
    of_lse = (q.shape[1], q.shape[0]) if q.ndim == 3 else (q.shape[0], q.shape[2], q.shape[1])
    _check_like("out", out, of_out, q.dtype, q)
    _check_like("dout", dout, of_out, q.dtype, q)
    _check_like("lse", lse, of_lse, torch.float32, q)
    if dlse is not None:
        _check_like("dlse", dlse, of_lse, torch.float32, q)
    for name, gradient, tensor in zip(("dq", "dk", "dv"), gradients, (q, k, v), strict=False):
        _check_like(name, gradient, tuple(tensor.shape), q.dtype, q)


def _check_like(name: str, tensor: Any, shape: tuple[int, ...], dtype: torch.dtype, q: Tensor) -> None:
    require_tensor(name, tensor)
    if tensor.dtype != dtype:
        raise TypeError(f"{name} must be {dtype}; it is {tensor.dtype}")
    if tensor.device != q.device:
        raise ValueError(f"{name} must be on the device of q, {q.device}; it is on {tensor.device}")
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name} must have shape {shape}; its shape is {tuple(tensor.shape)}")
