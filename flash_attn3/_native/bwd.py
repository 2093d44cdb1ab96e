"""Attention backward in the C ABI (``kernels/host/ops/bwd.h``)."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

from flash_attn3._native.pack import kernel_for
from flash_attn3._native.structures import Mask, Scale, Sequences, TensorView

if TYPE_CHECKING:
    from flash_attn3._native.pack import Kernel


class BwdArgs(ctypes.Structure):
    """``fa3_bwd_args``; the functions below set ``struct_size``."""

    _fields_ = (
        ("struct_size", ctypes.c_uint32),
        ("device", ctypes.c_int32),
        ("stream", ctypes.c_void_p),
        ("q", TensorView),
        ("k", TensorView),
        ("v", TensorView),
        ("out", TensorView),
        ("dout", TensorView),
        ("dq", TensorView),
        ("dk", TensorView),
        ("dv", TensorView),
        ("lse", ctypes.c_void_p),
        ("dlse", ctypes.c_void_p),
        ("sink", ctypes.c_void_p),
        ("dsink", ctypes.c_void_p),
        ("workspace", ctypes.c_void_p),
        ("workspace_size", ctypes.c_size_t),
        ("sequences", Sequences),
        ("mask", Mask),
        ("scale", Scale),
        ("deterministic", ctypes.c_int32),
        ("sm_margin", ctypes.c_int32),
    )


LAUNCHES = 4


def backward_kernels(arguments: BwdArgs) -> tuple[Kernel, ...]:
    """Return the kernels that ``fa3_bwd`` would launch, in their order; nothing is launched.

    Raises:
        NativeError: an argument was refused, or there is no driver or no kernel.
    """
    launches = (ctypes.c_uint32(launch) for launch in range(LAUNCHES))
    return tuple(kernel_for("fa3_bwd_kernel", arguments, launch) for launch in launches)
