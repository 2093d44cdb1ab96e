"""Attention forward in the C ABI (``kernels/host/ops/fwd.h``)."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

from flash_attn3._native.library import call_with
from flash_attn3._native.pack import kernel_for
from flash_attn3._native.structures import Mask, Scale, Sequences, TensorView

if TYPE_CHECKING:
    from flash_attn3._native.pack import Kernel


class FwdArgs(ctypes.Structure):
    """``fa3_fwd_args``; the functions below set ``struct_size``."""

    _fields_ = (
        ("struct_size", ctypes.c_uint32),
        ("device", ctypes.c_int32),
        ("stream", ctypes.c_void_p),
        ("q", TensorView),
        ("k", TensorView),
        ("v", TensorView),
        ("out", TensorView),
        ("lse", ctypes.c_void_p),
        ("sink", ctypes.c_void_p),
        ("sequences", Sequences),
        ("mask", Mask),
        ("scale", Scale),
        ("sm_margin", ctypes.c_int32),
        ("workspace", ctypes.c_void_p),
        ("workspace_size", ctypes.c_size_t),
    )


def forward(arguments: FwdArgs) -> None:
    """Enqueue attention forward on ``arguments.stream`` and return at once.

    Raises:
        NativeError: an argument was refused, or the driver failed.
    """
    call_with("fa3_fwd", arguments)


def forward_workspace(arguments: FwdArgs) -> int:
    """Return the bytes of the workspace with which few query rows over many keys are faster; 0 for none.

    Raises:
        NativeError: an argument was refused, or there is no driver or no kernel.
    """
    size = ctypes.c_size_t()
    call_with("fa3_fwd_workspace", arguments, ctypes.byref(size))
    return size.value


def forward_kernel(arguments: FwdArgs) -> Kernel:
    """Return the kernel that `forward` would launch; nothing is launched.

    Raises:
        NativeError: an argument was refused, or there is no driver or no kernel.
    """
    return kernel_for("fa3_fwd_kernel", arguments)
