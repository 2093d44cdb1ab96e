"""Appending to a cache in the C ABI (``kernels/host/ops/append.h``)."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

from flash_attn3._native.pack import kernel_for
from flash_attn3._native.structures import TensorView

if TYPE_CHECKING:
    from flash_attn3._native.pack import Kernel


class Rotary(ctypes.Structure):
    """``fa3_rotary``; null ``cosines`` for no rotation."""

    _fields_ = (
        ("cosines", ctypes.c_void_p),
        ("sines", ctypes.c_void_p),
        ("stride_cosines", ctypes.c_int64),
        ("stride_sines", ctypes.c_int64),
        ("first_positions", ctypes.c_void_p),
        ("positions", ctypes.c_int32),
        ("columns", ctypes.c_int32),
        ("interleaved", ctypes.c_int32),
        ("q_advances", ctypes.c_int32),
    )


class AppendArgs(ctypes.Structure):
    """``fa3_append_args``; the function below sets ``struct_size``."""

    _fields_ = (
        ("struct_size", ctypes.c_uint32),
        ("device", ctypes.c_int32),
        ("stream", ctypes.c_void_p),
        ("k_cache", TensorView),
        ("v_cache", TensorView),
        ("k", TensorView),
        ("v", TensorView),
        ("q", TensorView),
        ("q_out", TensorView),
        ("seqlens", ctypes.c_void_p),
        ("cache_seqlens", ctypes.c_void_p),
        ("cache_batch_idx", ctypes.c_void_p),
        ("page_table", ctypes.c_void_p),
        ("page_table_stride", ctypes.c_int64),
        ("cu_seqlens_new", ctypes.c_void_p),
        ("cu_seqlens_q", ctypes.c_void_p),
        ("rotary", Rotary),
        ("batch", ctypes.c_int32),
        ("page_table_columns", ctypes.c_int32),
    )


def append_kernel(arguments: AppendArgs) -> Kernel:
    """Return the kernel that ``fa3_append`` would launch; nothing is launched.

    Raises:
        NativeError: an argument was refused, or there is no driver or no kernel.
    """
    return kernel_for("fa3_append_kernel", arguments)
