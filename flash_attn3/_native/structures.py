"""Structures of the C ABI that operators share (``kernels/host/flash_attn3.h``)."""

from __future__ import annotations

import ctypes
import enum


class Dtype(enum.IntEnum):
    """``fa3_dtype``."""

    FP16 = 0
    BF16 = 1
    FP32 = 2


class TensorView(ctypes.Structure):
    """``fa3_tensor``: (batch, seqlen, heads, head_dim); strides in elements; dtype is a `Dtype`."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("shape", ctypes.c_int64 * 4),
        ("stride", ctypes.c_int64 * 4),
        ("dtype", ctypes.c_int32),
    )


class Sequences(ctypes.Structure):
    """``fa3_sequences``: where each sequence lies in q and in k; null pointers for a dense batch."""

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
    """``fa3_mask``: a window side of -1 has no limit; an attention_chunk of 0 means no chunks."""

    _fields_ = (
        ("causal", ctypes.c_int32),
        ("window_left", ctypes.c_int32),
        ("window_right", ctypes.c_int32),
        ("attention_chunk", ctypes.c_int32),
    )


class Scale(ctypes.Structure):
    """``fa3_scale``: a softcap of 0 means none."""

    _fields_ = (("softmax_scale", ctypes.c_float), ("softcap", ctypes.c_float))
