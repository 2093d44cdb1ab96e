"""The C ABI of the runtime as ctypes sees it, and a pack writer made from the format's description."""

from __future__ import annotations

import ctypes
import inspect
import math
import struct
import zlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

OK, INVALID_ARGUMENT, UNSUPPORTED, NO_DRIVER, BAD_PACK, DRIVER_ERROR = range(6)
FP16, BF16, FP32 = range(3)
EXACT, PORTABLE, PTX = range(3)
INDEX = 0x70000  # where arrays of numbers lie


ANY_DTYPE = 255


class Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("shape", ctypes.c_int64 * 4),
        ("stride", ctypes.c_int64 * 4),
        ("dtype", ctypes.c_int32),
    )


class Sequences(ctypes.Structure):
    _fields_ = (
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


class Mask(ctypes.Structure):
    _fields_ = (
        ("causal", ctypes.c_int32),
        ("window_left", ctypes.c_int32),
        ("window_right", ctypes.c_int32),
        ("attention_chunk", ctypes.c_int32),
    )


class Scale(ctypes.Structure):
    _fields_ = (("softmax_scale", ctypes.c_float), ("softcap", ctypes.c_float))


class FwdArgs(ctypes.Structure):
    """The fields of its parts are its own here."""

    _anonymous_ = ("sequences", "mask", "scale")
    _fields_ = (
        ("struct_size", ctypes.c_uint32),
        ("device", ctypes.c_int32),
        ("stream", ctypes.c_void_p),
        ("q", Tensor),
        ("k", Tensor),
        ("v", Tensor),
        ("out", Tensor),
        ("lse", ctypes.c_void_p),
        ("sink", ctypes.c_void_p),
        ("sequences", Sequences),
        ("mask", Mask),
        ("scale", Scale),
        ("sm_margin", ctypes.c_int32),
        ("workspace", ctypes.c_void_p),
        ("workspace_size", ctypes.c_size_t),
    )


class KernelInfo(ctypes.Structure):
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


class CombineArgs(ctypes.Structure):
    _fields_ = (
        ("struct_size", ctypes.c_uint32),
        ("device", ctypes.c_int32),
        ("stream", ctypes.c_void_p),
        ("out_partial", Tensor),
        ("out_partial_stride", ctypes.c_int64),
        ("lse_partial", ctypes.c_void_p),
        ("lse_partial_stride", ctypes.c_int64 * 3),
        ("out", Tensor),
        ("lse", ctypes.c_void_p),
        ("splits", ctypes.c_int32),
    )


class Api:
    """Calls the library; each call returns (status, message)."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        self._library.fa3_version.restype = ctypes.c_char_p

    def version(self) -> str:
        return self._library.fa3_version().decode()

    def call(self, name: str, *arguments: object) -> tuple[int, str]:
        error = ctypes.create_string_buffer(2048)
        status = self._library[name](*arguments, error, ctypes.c_size_t(len(error)))
        return status, error.value.decode()

    def set_pack(self, path: Path | None) -> tuple[int, str]:
        return self.call("fa3_set_pack", None if path is None else str(path).encode())

    def kernel_count(self) -> int:
        count = ctypes.c_int32(-1)
        status, message = self.call("fa3_kernel_count", ctypes.byref(count))
        assert status == OK, message
        return count.value

    def kernel_at(self, index: int) -> KernelInfo:
        info = KernelInfo(struct_size=ctypes.sizeof(KernelInfo))
        status, message = self.call("fa3_kernel_at", ctypes.c_int32(index), ctypes.byref(info))
        assert status == OK, message
        return info

    def device_supported(self, device: int, op: str | None = None) -> tuple[int, str]:
        name = None if op is None else op.encode()
        return self.call("fa3_device_supported", ctypes.c_int32(device), name)

    def driver(self) -> tuple[int, str, int, int]:
        version, devices = ctypes.c_int32(-1), ctypes.c_int32(-1)
        status, message = self.call("fa3_driver", ctypes.byref(version), ctypes.byref(devices))
        return status, message, version.value, devices.value

    def check_layout(self, tensor: Tensor, argument: str = "q") -> tuple[int, str]:
        return self.call("fa3_check_layout", ctypes.byref(tensor), argument.encode())

    def fwd(self, args: FwdArgs) -> tuple[int, str]:
        return self.call("fa3_fwd", ctypes.byref(args))

    def fwd_kernel(self, args: FwdArgs) -> tuple[int, str, str]:
        """Status, message, and the name of the kernel that `fwd` would launch."""
        info = KernelInfo(struct_size=ctypes.sizeof(KernelInfo))
        status, message = self.call("fa3_fwd_kernel", ctypes.byref(args), ctypes.byref(info))
        return status, message, info.name.decode()

    def combine(self, args: CombineArgs) -> tuple[int, str]:
        return self.call("fa3_combine", ctypes.byref(args))

    def combine_kernel(self, args: CombineArgs) -> tuple[int, str, str]:
        """Status, message, and the name of the kernel that `combine` would launch."""
        info = KernelInfo(struct_size=ctypes.sizeof(KernelInfo))
        status, message = self.call("fa3_combine_kernel", ctypes.byref(args), ctypes.byref(info))
        return status, message, info.name.decode()

    def allow_kernels(self, codes: int, seqlen_q: int = 0) -> tuple[int, str]:
        return self.call("fa3_allow_kernels", ctypes.c_uint32(codes), ctypes.c_int32(seqlen_q))


def run_with(scenario: Callable[..., None], **doubles: object) -> None:
    """Run a scenario with those of the doubles that it names."""
    scenario(**{name: doubles[name] for name in inspect.signature(scenario).parameters})


def contiguous(*shape: int) -> tuple[int, ...]:
    strides = [1]
    for extent in reversed(shape[1:]):
        strides.insert(0, strides[0] * max(extent, 1))
    return tuple(strides)


def tensor(
    data: int, shape: tuple[int, ...], stride: tuple[int, ...] | None = None, dtype: int = BF16
) -> Tensor:
    dimensions = ctypes.c_int64 * 4
    return Tensor(data, dimensions(*shape), dimensions(*(stride or contiguous(*shape))), dtype)


def fwd_args(  # noqa: PLR0917 - the sizes of a problem, in the order in which one says them
    batch: int = 2,
    seqlen_q: int = 256,
    seqlen_k: int = 384,
    heads: int = 4,
    heads_k: int = 2,
    head_dim: int = 128,
    head_dim_v: int | None = None,
    *,
    dtype: int = BF16,
    **changes: object,
) -> FwdArgs:
    """A valid call on made-up addresses, with `changes` applied to its fields."""
    dv = head_dim if head_dim_v is None else head_dim_v
    args = FwdArgs(
        struct_size=ctypes.sizeof(FwdArgs),
        softmax_scale=0.125,
        q=tensor(0x10000, (batch, seqlen_q, heads, head_dim)),
        k=tensor(0x20000, (batch, seqlen_k, heads_k, head_dim)),
        v=tensor(0x30000, (batch, seqlen_k, heads_k, dv)),
        out=tensor(0x40000, (batch, seqlen_q, heads, dv)),
        lse=0x50000,
        window_left=-1,
        window_right=-1,
        batch=batch,
    )
    for name, value in changes.items():
        setattr(args, name, value)
    for operand in (args.q, args.k, args.v, args.out):
        operand.dtype = dtype
    return args


def combine_args(
    splits: int = 3,
    shape: tuple[int, int, int, int] = (2, 256, 4, 128),
    *,
    dtype: int = BF16,
    **changes: object,
) -> CombineArgs:
    """A valid call on made-up addresses, with `changes` applied to its fields."""
    batch, seqlen, heads, _ = shape
    part, lse_part = math.prod(shape), batch * seqlen * heads
    args = CombineArgs(
        struct_size=ctypes.sizeof(CombineArgs),
        splits=splits,
        out_partial=tensor(0x10000, shape, dtype=FP32),
        out_partial_stride=part,
        lse_partial=0x20000,
        lse_partial_stride=(ctypes.c_int64 * 3)(lse_part, seqlen * heads, seqlen),
        out=tensor(0x30000, shape),
        lse=0x40000,
    )
    for name, value in changes.items():
        setattr(args, name, value)
    args.out_partial.dtype, args.out.dtype = FP32, dtype
    return args


# What the operators take behind q, k and v, in their order: together a call that is one of `fwd`.
SCALARS: dict[str, object] = {"softmax_scale": 0.5, "causal": False}
PACKED: dict[str, object] = {
    "cu_seqlens_q": None,
    "cu_seqlens_k": None,
    "max_seqlen_q": 0,
    "max_seqlen_k": 0,
}
PARTLY_USED: dict[str, object] = {"seqused_q": None, "seqused_k": None, "page_table": None}
OPTIONS: dict[str, object] = {
    "window_left": -1,
    "window_right": -1,
    "sink": None,
    "softcap": 0.0,
    "attention_chunk": 0,
    "sm_margin": 0,
}
GENERAL = SCALARS | PACKED | PARTLY_USED | OPTIONS
ARGUMENTS = {
    "fwd": SCALARS | {"sm_margin": 0},
    "fwd_masked": SCALARS | OPTIONS,
    "fwd_varlen": SCALARS | PACKED | OPTIONS,
    "fwd_general": GENERAL,
    "fwd_into": GENERAL,
}


@dataclass(frozen=True)
class Kernel:
    """A record of the pack with its cubin or PTX."""

    name: str
    mask: str = "full"
    sm: int = 90
    code: int = EXACT
    dtype: int = BF16
    head_dim: int = 128
    head_dim_v: int = 128
    tile_m: int = 128
    tile_n: int = 176
    threads: int = 384
    smem_bytes: int = 200_000
    dynamic: int = 1
    box_rows_q: int = 128
    box_rows_kv: int = 176
    box_rows_out: int = 64
    blocks_per_sm: int = 1
    min_seqlen_q: int = 0
    value_slices: int = 1
    packs_gqa: int = 0
    dtype_out: int | None = None
    toolkit: str = "12.8"
    op: str = "fwd"
    image: bytes = b"\x7fELF and some code " * 9

    def numbers(self) -> tuple[int, ...]:
        """The common fields, as far as the images."""
        dtype_out = self.dtype if self.dtype_out is None else self.dtype_out
        return (
            *(self.sm, self.code, self.dtype, dtype_out, self.head_dim, self.head_dim_v),
            *(self.tile_m, self.tile_n, self.threads, self.smem_bytes, self.blocks_per_sm),
            len(self.tail()),
        )

    def tail(self) -> tuple[int, ...]:
        """The numbers of the operator."""
        if self.op != "fwd":
            return ()
        boxes = (self.box_rows_q, self.box_rows_kv, self.box_rows_out)
        return (self.dynamic, *boxes, self.min_seqlen_q, self.value_slices, self.packs_gqa)


FORMAT = 3
HEADER = struct.Struct("<8sIIQQ")
TAIL_WORDS = 18
RECORD = struct.Struct(f"<64s16s16s16s12I3Q{TAIL_WORDS}I")

KERNELS = (
    Kernel("fwd_sm90_bf16_d128_full"),
    Kernel("fwd_sm90_bf16_d128_causal", mask="causal"),
    Kernel("fwd_sm90_fp16_d128_full", dtype=FP16, dynamic=0, blocks_per_sm=2),
)


LOCAL = Kernel("fwd_sm90_bf16_d128_local", mask="local")
COMBINE = Kernel(
    "combine_sm80",
    op="combine",
    mask="any",
    sm=80,
    code=PORTABLE,
    dtype=FP32,
    dtype_out=ANY_DTYPE,
    head_dim=0,
    head_dim_v=0,
    tile_m=16,
    threads=128,
    smem_bytes=0,
    dynamic=0,
    box_rows_q=0,
    box_rows_kv=0,
    box_rows_out=0,
)


def portable(name: str, **changes: object) -> Kernel:
    """A kernel that computes its addresses and its own tile."""
    kernel = Kernel(
        name,
        mask="any",
        sm=80,
        code=PORTABLE,
        tile_m=64,
        threads=128,
        smem_bytes=65_536,
        dynamic=0,
        box_rows_q=0,
        box_rows_kv=0,
        box_rows_out=0,
        packs_gqa=1,
    )
    return replace(kernel, **changes)


def pack_bytes(kernels: Iterable[Kernel]) -> bytes:
    """The file, per its description: header, records, images on 64-byte boundaries."""
    kernels = tuple(kernels)
    offset = -(-(HEADER.size + RECORD.size * len(kernels)) // 64) * 64
    records, images = b"", b""
    for kernel in kernels:
        records += RECORD.pack(
            *(text.encode() for text in (kernel.name, kernel.op, kernel.mask, kernel.toolkit)),
            *kernel.numbers(),
            offset + len(images),
            len(kernel.image),
            zlib.crc32(kernel.image),
            *kernel.tail(),
            *(0,) * (TAIL_WORDS - len(kernel.tail())),
        )
        images += kernel.image + bytes(-len(kernel.image) % 64)
    size = offset + len(images)
    header = HEADER.pack(b"FA3PACK\x01", FORMAT, len(kernels), size, zlib.crc32(records))
    return (header + records).ljust(offset, b"\0") + images
