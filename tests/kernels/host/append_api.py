"""Appending to a cache in the C ABI of the runtime as ctypes sees it."""

from __future__ import annotations

import ctypes

from tests.kernels.host.host_api import (
    BF16,
    COMBINE,
    INDEX,
    Api,
    KernelInfo,
    Tensor,
    replace,
    tensor,
)


class Rotary(ctypes.Structure):
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
    """`fa3_append_args`."""

    _fields_ = (
        ("struct_size", ctypes.c_uint32),
        ("device", ctypes.c_int32),
        ("stream", ctypes.c_void_p),
        ("k_cache", Tensor),
        ("v_cache", Tensor),
        ("k", Tensor),
        ("v", Tensor),
        ("q", Tensor),
        ("q_out", Tensor),
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


APPEND = replace(
    COMBINE, name="append_sm80_bf16", op="append", dtype=BF16, dtype_out=BF16, tile_m=4, threads=256
)


def append_args(
    batch: int = 2, seqlen: int = 3, rows: int = 100, heads: int = 2, head_dim: int = 64, **changes: object
) -> AppendArgs:
    """A valid call on made-up addresses, with `changes` applied to its fields; no queries, no rotation."""
    args = AppendArgs(
        struct_size=ctypes.sizeof(AppendArgs),
        k_cache=tensor(0x10000, (batch, rows, heads, head_dim)),
        v_cache=tensor(0x20000, (batch, rows, heads, head_dim)),
        k=tensor(0x30000, (batch, seqlen, heads, head_dim)),
        v=tensor(0x40000, (batch, seqlen, heads, head_dim)),
        seqlens=INDEX,
        cache_seqlens=INDEX + 0x100,
        batch=batch,
    )
    for name, value in changes.items():
        setattr(args, name, value)
    return args


def rotary(positions: int = 50, columns: int = 32, **changes: object) -> Rotary:
    """Tables on made-up addresses."""
    fields = {
        "cosines": 0x80000,
        "sines": 0x90000,
        "stride_cosines": 16,
        "stride_sines": 24,
        "interleaved": 1,
    }
    return Rotary(positions=positions, columns=columns, **(fields | changes))


def append(api: Api, args: AppendArgs) -> tuple[int, str]:
    return api.call("fa3_append", ctypes.byref(args))


def append_kernel(api: Api, args: AppendArgs) -> tuple[int, str, str]:
    """Status, message, and the name of the kernel that `append` would launch."""
    info = KernelInfo(struct_size=ctypes.sizeof(KernelInfo))
    status, message = api.call("fa3_append_kernel", ctypes.byref(args), ctypes.byref(info))
    return status, message, info.name.decode()
