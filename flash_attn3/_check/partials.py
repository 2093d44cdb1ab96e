"""Checks of partial results that are to be combined."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from flash_attn3 import _native
from flash_attn3._check.tensors import require_tensor
from flash_attn3._native import Dtype

if TYPE_CHECKING:
    from torch import Tensor

MOST_SPLITS = 256
WIDEST = 512  # head_dim_v
OUT_DTYPES = {
    torch.float32: int(Dtype.FP32),
    torch.float16: int(Dtype.FP16),
    torch.bfloat16: int(Dtype.BF16),
}
"""The numbers by which the operator takes dtypes of the output."""
_NAMES = "torch.float32, torch.float16 or torch.bfloat16"


def read_out_dtype(number: int) -> torch.dtype:
    """Return the dtype of the output for the number that the operator takes.

    Raises:
        ValueError: it stands for no such dtype.
    """
    for dtype, known in OUT_DTYPES.items():
        if known == number:
            return dtype
    raise ValueError(f"out_dtype must be the number of {_NAMES}, {[*OUT_DTYPES.values()]}; it is {number}")


def check_partials(out_partial: Any, lse_partial: Any, out: Any, out_dtype: Any) -> None:
    """Refuse arguments that ``flash_attn3.flash_attn_combine`` cannot take; out and out_dtype may be None.

    Raises:
        TypeError: one of them has a wrong type or dtype.
        ValueError: a device, rank, size or stride does not fit, or out and out_dtype differ.
        NotImplementedError: this build holds no kernel that combines, or head_dim_v is too large for it.
    """
    for name, tensor in (("out_partial", out_partial), ("lse_partial", lse_partial)):
        require_tensor(name, tensor)
        if tensor.dtype != torch.float32:
            raise TypeError(f"{name} must be torch.float32; it is {tensor.dtype}")
        # A meta tensor has no data; the shapes of its results can still be described.
        if tensor.device.type not in ("cuda", "meta"):
            raise ValueError(f"{name} must be a CUDA tensor; it is on {tensor.device}")
    if out_partial.ndim not in (4, 5):
        raise ValueError(
            "out_partial must have shape (splits, batch, seqlen, heads, head_dim_v) or "
            f"(splits, total, heads, head_dim_v); its shape is {tuple(out_partial.shape)}"
        )
    if lse_partial.device != out_partial.device:
        raise ValueError(
            f"lse_partial must be on the device of out_partial, {out_partial.device}; "
            f"it is on {lse_partial.device}"
        )
    if lse_partial.shape != out_partial.shape[:-1]:
        raise ValueError(
            f"lse_partial must have shape {tuple(out_partial.shape[:-1])}, that of out_partial without "
            f"head_dim_v; its shape is {tuple(lse_partial.shape)}"
        )
    _check_sizes(out_partial)
    _check_output(out_partial, out, out_dtype)


def _check_sizes(out_partial: Tensor) -> None:
    splits, head_dim_v = out_partial.shape[0], out_partial.shape[-1]
    if not 1 <= splits <= MOST_SPLITS:
        raise ValueError(f"out_partial must have 1 to {MOST_SPLITS} splits; it has {splits}")
    if head_dim_v == 0:
        raise ValueError(
            f"out_partial must have a head_dim_v of 1 or more; its shape is {tuple(out_partial.shape)}"
        )
    if head_dim_v > WIDEST:
        raise NotImplementedError(
            f"out_partial has head_dim_v {head_dim_v}; this build combines up to {WIDEST}"
        )
    if not any(kernel.op == "combine" for kernel in _native.kernels()):
        raise NotImplementedError("this build has no kernel that combines partial results")


def _check_output(out_partial: Tensor, out: Any, out_dtype: Any) -> None:
    if out_dtype is not None and not isinstance(out_dtype, torch.dtype):
        raise TypeError(f"out_dtype must be a torch.dtype or None; its type is {type(out_dtype).__name__}")
    if out_dtype is not None and out_dtype not in OUT_DTYPES:
        raise TypeError(f"out_dtype must be {_NAMES}; it is {out_dtype}")
    if out is None:
        return
    require_tensor("out", out)
    if out.dtype not in OUT_DTYPES:
        raise TypeError(f"out must be {_NAMES}; it is {out.dtype}")
    if out_dtype is not None and out.dtype != out_dtype:
        raise ValueError(f"out_dtype must be the dtype of out, {out.dtype}, or None; it is {out_dtype}")
    if out.device != out_partial.device:
        raise ValueError(
            f"out must be on the device of out_partial, {out_partial.device}; it is on {out.device}"
        )
    if out.shape != out_partial.shape[1:]:
        raise ValueError(
            f"out must have shape {tuple(out_partial.shape[1:])}; its shape is {tuple(out.shape)}"
        )
