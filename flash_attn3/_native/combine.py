"""Combining partial results in the C ABI (``kernels/host/ops/combine.h``)."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

from flash_attn3._native.pack import kernel_for
from flash_attn3._native.structures import TensorView

if TYPE_CHECKING:
    from flash_attn3._native.pack import Kernel


class CombineArgs(ctypes.Structure):
    """``fa3_combine_args``; the function below sets ``struct_size``."""

    _fields_ = (
        ("struct_size", ctypes.c_uint32),
        ("device", ctypes.c_int32),
        ("stream", ctypes.c_void_p),
        ("out_partial", TensorView),
        ("out_partial_stride", ctypes.c_int64),
        ("lse_partial", ctypes.c_void_p),
        ("lse_partial_stride", ctypes.c_int64 * 3),
        ("out", TensorView),
        ("lse", ctypes.c_void_p),
        ("splits", ctypes.c_int32),
    )


def combine_kernel(arguments: CombineArgs) -> Kernel:
    """Return the kernel that ``fa3_combine`` would launch; nothing is launched.

    Raises:
        NativeError: an argument was refused, or there is no driver or no kernel.
    """
    return kernel_for("fa3_combine_kernel", arguments)
