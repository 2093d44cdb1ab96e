"""The kernels of the installed pack, and which of them may serve a call."""

from __future__ import annotations

import ctypes
import enum
import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flash_attn3._native.library import NativeError, Status, call, call_with
from flash_attn3._native.structures import Dtype

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_ANY_DTYPE = 255  # dtype_out of a kernel that writes several


class Code(enum.IntEnum):
    """``fa3_code``: what the bytes of a kernel are, and so where it runs; a lower one is preferred."""

    EXACT = 0
    PORTABLE = 1
    PTX = 2


class KernelInfo(ctypes.Structure):
    """``fa3_kernel_info``."""

    _fields_ = (
        ("struct_size", ctypes.c_uint32),
        ("sm", ctypes.c_int32),
        ("name", ctypes.c_char * 64),
        ("op", ctypes.c_char * 16),
        ("mask", ctypes.c_char * 16),
        ("toolkit", ctypes.c_char * 16),
        ("code", ctypes.c_int32),
        ("dtype_in", ctypes.c_int32),
        ("dtype_out", ctypes.c_int32),
        ("head_dim", ctypes.c_int32),
        ("head_dim_v", ctypes.c_int32),
    )


@dataclass(frozen=True)
class Kernel:
    """One kernel of the installed pack.

    Attributes:
        op: the operator, for example ``fwd`` or ``combine``.
        mask: ``full``, ``causal``, ``local``, or ``any`` of them.
        toolkit: the CUDA toolkit that compiled it, for example "12.8".
        sm: 90 for compute capability 9.0.
        dtype_in: of the input tensors: ``fp16``, ``bf16`` or ``fp32``.
        dtype_out: of the output: likewise, or ``any`` of them.
        head_dim: the largest that it takes; 0 where it has no meaning, as in combine.
        head_dim_v: likewise.
        code: ``exact`` (a cubin for this sm alone), ``portable`` (a cubin for this sm and later ones of its
            major number) or ``ptx`` (for this sm and every later one).
    """

    name: str
    op: str
    mask: str
    toolkit: str
    sm: int
    dtype_in: str
    dtype_out: str
    head_dim: int
    head_dim_v: int
    code: str

    def runs_on(self, sm: int) -> bool:
        """Return whether a GPU of this sm (90 for compute capability 9.0) can run it."""
        if self.code == "exact":
            return sm == self.sm
        return sm >= self.sm and (self.code == "ptx" or sm // 10 == self.sm // 10)

    @property
    def target(self) -> str:
        """What it was compiled for, as compilers name it: ``sm_90a``, ``sm_80``, ``compute_80``."""
        if self.code == "ptx":
            return f"compute_{self.sm}"
        return f"sm_{self.sm}a" if self.code == "exact" else f"sm_{self.sm}"


@functools.cache
def kernels() -> tuple[Kernel, ...]:
    """Return the kernels of the installed pack. Needs no driver and no GPU.

    Raises:
        NativeError: the pack is missing, truncated or altered.
    """
    count = ctypes.c_int32()
    call("fa3_kernel_count", ctypes.byref(count))
    found = []
    for index in range(count.value):
        info = _new_info()
        call("fa3_kernel_at", ctypes.c_int32(index), ctypes.byref(info))
        found.append(_kernel(info))
    return tuple(found)


def kernel_for(function: str, arguments: ctypes.Structure, *which: ctypes.c_uint32) -> Kernel:
    """Return the kernel that a call with these arguments would launch; ``function`` is its query.

    ``which``: the number of the launch, for an operator with several.

    Raises:
        NativeError: the call would be refused, or there is no driver.
    """
    info = _new_info()
    call_with(function, arguments, *which, ctypes.byref(info))
    return _kernel(info)


def _new_info() -> KernelInfo:
    return KernelInfo(struct_size=ctypes.sizeof(KernelInfo))


def _kernel(info: KernelInfo) -> Kernel:
    name = info.name.decode()
    try:
        return Kernel(
            name=name,
            op=info.op.decode(),
            mask=info.mask.decode(),
            toolkit=info.toolkit.decode(),
            sm=info.sm,
            dtype_in=_dtype_name(info.dtype_in),
            dtype_out=_dtype_name(info.dtype_out),
            head_dim=info.head_dim,
            head_dim_v=info.head_dim_v,
            code=Code(info.code).name.lower(),
        )
    except ValueError as error:
        raise NativeError(Status.BAD_PACK, f"kernel {name} of the pack: {error}") from None


def _dtype_name(number: int) -> str:
    return "any" if number == _ANY_DTYPE else Dtype(number).name.lower()


def set_pack(path: Path) -> None:
    """Choose kernels from another pack from here on, in the whole process. For comparing kernels.

    Raises:
        NativeError: the file is no pack.
    """
    call("fa3_set_pack", str(path).encode())


def allow_kernels(codes: Iterable[Code] = tuple(Code), seqlen_q: int = 0) -> None:
    """Allow only kernels of these codes, in the whole process; without arguments, all of them.

    They are chosen as if no query sequence were shorter than ``seqlen_q``. For checks: a kernel for exactly
    one GPU hides the kernels that other GPUs get, and few cases are long enough for a kernel for long ones.

    Raises:
        NativeError: no code is given.
    """
    call("fa3_allow_kernels", ctypes.c_uint32(sum(1 << code for code in codes)), ctypes.c_int32(seqlen_q))


def require_device(device: int, op: str | None = None) -> None:
    """Raise unless the pack holds a kernel of an operator for this CUDA device ordinal.

    Args:
        device: the ordinal.
        op: the operator, for example ``fwd``; None for any operator.

    Raises:
        NativeError: it holds none; the text names the device and what the pack holds.
    """
    call("fa3_device_supported", ctypes.c_int32(device), None if op is None else op.encode())
