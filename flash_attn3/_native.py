"""The C ABI of ``libflash_attn3.so`` (kernels/host/flash_attn3.h), through ctypes: no torch is involved."""

from __future__ import annotations

import ctypes
import enum
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

_LIBRARY = Path(__file__).parent / "lib" / "libflash_attn3.so"
_ERROR_SIZE = 1024


class Status(enum.IntEnum):
    """``fa3_status``."""

    OK = 0
    INVALID_ARGUMENT = 1
    UNSUPPORTED = 2
    NO_DRIVER = 3
    BAD_PACK = 4
    DRIVER_ERROR = 5


class Dtype(enum.IntEnum):
    """``fa3_dtype``."""

    FP16 = 0
    BF16 = 1
    FP32 = 2


class Code(enum.IntEnum):
    """``fa3_code``: what a kernel's bytes are, and so where it runs."""

    EXACT = 0
    PORTABLE = 1
    PTX = 2


class NativeError(RuntimeError):
    """A call of the C ABI that did not return ``FA3_OK``; the text is the library's own."""

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(message)
        self.status = status


class TensorView(ctypes.Structure):
    """``fa3_tensor``: (batch, seqlen, heads, head_dim); strides in elements."""

    _fields_ = (("data", ctypes.c_void_p), ("shape", ctypes.c_int64 * 4), ("stride", ctypes.c_int64 * 4))


class FwdArgs(ctypes.Structure):
    """``fa3_fwd_args``."""

    _fields_ = (
        ("struct_size", ctypes.c_uint32),
        ("device", ctypes.c_int32),
        ("dtype", ctypes.c_int32),
        ("causal", ctypes.c_int32),
        ("softmax_scale", ctypes.c_float),
        ("sm_margin", ctypes.c_int32),
        ("stream", ctypes.c_void_p),
        ("q", TensorView),
        ("k", TensorView),
        ("v", TensorView),
        ("out", TensorView),
        ("lse", ctypes.c_void_p),
        ("window_left", ctypes.c_int32),
        ("window_right", ctypes.c_int32),
        ("attention_chunk", ctypes.c_int32),
        ("softcap", ctypes.c_float),
        ("sink", ctypes.c_void_p),
        ("cu_seqlens_q", ctypes.c_void_p),
        ("cu_seqlens_k", ctypes.c_void_p),
        ("seqused_q", ctypes.c_void_p),
        ("seqused_k", ctypes.c_void_p),
        ("page_table", ctypes.c_void_p),
        ("page_table_stride", ctypes.c_int64),
        ("batch", ctypes.c_int32),
        ("max_seqlen_q", ctypes.c_int32),
        ("max_seqlen_k", ctypes.c_int32),
    )


class _KernelInfo(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char * 64),
        ("op", ctypes.c_char * 16),
        ("mask", ctypes.c_char * 16),
        ("toolkit", ctypes.c_char * 16),
        ("sm", ctypes.c_int32),
        ("dtype", ctypes.c_int32),
        ("head_dim", ctypes.c_int32),
        ("head_dim_v", ctypes.c_int32),
        ("code", ctypes.c_int32),
        ("min_seqlen_q", ctypes.c_int32),
    )


@dataclass(frozen=True)
class Kernel:
    """One kernel of the installed pack.

    Attributes:
        op: ``fwd`` or ``combine``.
        mask: ``full``, ``causal``, ``local``, or ``any`` of them.
        toolkit: the CUDA toolkit that compiled it, for example "12.8".
        sm: 90 for compute capability 9.0.
        dtype: ``fp16`` or ``bf16``; ``fp32`` for combine.
        head_dim: the largest that it takes; 0 for combine, and so is head_dim_v.
        head_dim_v: the largest that it takes.
        code: ``exact`` (a cubin for this sm alone), ``portable`` (a cubin for this sm and later ones of its
            major number) or ``ptx`` (for this sm and every later one).
        min_seqlen_q: serves query sequences of at least this length.
    """

    name: str
    op: str
    mask: str
    toolkit: str
    sm: int
    dtype: str
    head_dim: int
    head_dim_v: int
    code: str
    min_seqlen_q: int = 0

    def runs_on(self, sm: int) -> bool:
        """Return whether a GPU of this sm (90 for compute capability 9.0) can run it."""
        if self.code == "exact":
            return sm == self.sm
        return sm >= self.sm and (self.code == "ptx" or sm // 10 == self.sm // 10)


@functools.cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(str(_LIBRARY))
    library.fa3_version.restype = ctypes.c_char_p
    library.fa3_version.argtypes = []
    text: list[Any] = [ctypes.c_char_p, ctypes.c_size_t]
    int_p = ctypes.POINTER(ctypes.c_int32)
    library.fa3_kernel_count.argtypes = [int_p, *text]
    library.fa3_kernel_at.argtypes = [ctypes.c_int32, ctypes.POINTER(_KernelInfo), *text]
    library.fa3_set_pack.argtypes = [ctypes.c_char_p, *text]
    library.fa3_allow_kernels.argtypes = [ctypes.c_uint32, ctypes.c_int32, *text]
    library.fa3_driver.argtypes = [int_p, int_p, *text]
    library.fa3_device_supported.argtypes = [ctypes.c_int32, *text]
    library.fa3_fwd.argtypes = [ctypes.POINTER(FwdArgs), *text]
    return library


def _call(function: str, *arguments: Any) -> None:
    error = ctypes.create_string_buffer(_ERROR_SIZE)
    status = getattr(_library(), function)(*arguments, error, _ERROR_SIZE)
    if status != Status.OK:
        raise NativeError(Status(status), error.value.decode(errors="replace"))


def version() -> str:
    """Return the version that the library was compiled as."""
    text: bytes = _library().fa3_version()
    return text.decode()


@functools.cache
def kernels() -> tuple[Kernel, ...]:
    """Return the kernels of the installed pack. Needs no driver and no GPU.

    Raises:
        NativeError: the pack is missing, truncated or altered.
    """
    count = ctypes.c_int32()
    _call("fa3_kernel_count", ctypes.byref(count))
    rows = []
    for index in range(count.value):
        info = _KernelInfo()
        _call("fa3_kernel_at", index, ctypes.byref(info))
        rows.append(
            Kernel(
                name=info.name.decode(),
                op=info.op.decode(),
                mask=info.mask.decode(),
                toolkit=info.toolkit.decode(),
                sm=info.sm,
                dtype=Dtype(info.dtype).name.lower(),
                head_dim=info.head_dim,
                head_dim_v=info.head_dim_v,
                code=Code(info.code).name.lower(),
                min_seqlen_q=info.min_seqlen_q,
            )
        )
    return tuple(rows)


def set_pack(path: Path) -> None:
    """Take the kernels of another pack from here on, in the whole process. It is for comparing kernels.

    Raises:
        NativeError: it is no pack.
    """
    _call("fa3_set_pack", str(path).encode())


def allow_kernels(codes: Iterable[Code] = tuple(Code), seqlen_q: int = 0) -> None:
    """Let only kernels of these codes be chosen, in the whole process; all of them without an argument.

    They are chosen as if no query sequence were shorter than ``seqlen_q``. It is for checks: a kernel for
    exactly one GPU hides the ones that other GPUs would get, and one for long sequences meets few cases.
    """
    _call("fa3_allow_kernels", sum(1 << code for code in codes), seqlen_q)


def driver() -> tuple[str, int]:
    """Return the CUDA version of the driver, for example "13.0", and the number of devices.

    Raises:
        NativeError: there is no driver, or it is too old.
    """
    number, devices = ctypes.c_int32(), ctypes.c_int32()
    _call("fa3_driver", ctypes.byref(number), ctypes.byref(devices))
    return f"{number.value // 1000}.{number.value % 1000 // 10}", devices.value


def require_device(device: int) -> None:
    """Raise unless the pack holds a kernel for this CUDA device ordinal.

    Raises:
        NativeError: it does not; the text names the device and what the pack holds.
    """
    _call("fa3_device_supported", device)


def forward(arguments: FwdArgs) -> None:
    """Enqueue attention forward on ``arguments.stream`` and return at once.

    Raises:
        NativeError: an argument was refused, or the driver failed.
    """
    arguments.struct_size = ctypes.sizeof(FwdArgs)
    _call("fa3_fwd", ctypes.byref(arguments))
