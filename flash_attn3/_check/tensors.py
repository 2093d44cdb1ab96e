"""Checks of the tensors of attention.

The operators check the same in C++, where it is fast, and can raise only ``RuntimeError``. These checks run
when an operator has failed, and when shapes are inferred without data, to raise the right type of error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from flash_attn3 import _native

if TYPE_CHECKING:
    from flash_attn3._check.arguments import Lengths

_DTYPES = {torch.float16: "fp16", torch.bfloat16: "bf16"}
_FP8 = frozenset({torch.float8_e4m3fn, torch.float8_e5m2})


def check_tensors(
    q: Tensor, k: Tensor, v: Tensor, *, lengths: Lengths, sink: Any = None, out: Any = None, op: str = "fwd"
) -> None:
    """Refuse tensors that attention forward, or another ``op`` on the same tensors, cannot take.

    Raises:
        TypeError: an argument is no tensor or has a wrong dtype.
        ValueError: a device, rank, size or stride does not fit.
        NotImplementedError: this build holds no kernel for the head_dim, or for FP8.
    """
    shapes = {
        "q": "(batch, seqlen, heads, head_dim)"
        if lengths.cu_seqlens_q is None
        else "(total_q, heads, head_dim)",
        "k": "(batch, seqlen, heads, head_dim)"
        if lengths.cu_seqlens_k is None
        else "(total_k, heads, head_dim)",
    }
    if lengths.page_table is not None:
        shapes["k"] = "(pages, page_size, heads, head_dim)"
    shapes["v"] = shapes["k"]
    tensors = {"q": q, "k": k, "v": v}
    for name, tensor in tensors.items():
        require_tensor(name, tensor)
    for name, tensor in tensors.items():
        _check_operand(name, tensor, shapes[name], q)
    batch = _check_lengths(q, lengths)
    _check_shapes(q, k, v, batch, lengths)
    _check_head_dims(q, v, op)
    if sink is not None:
        _check_sink(q, sink)
    if out is not None:
        _check_out(q, v, out)


def _check_operand(name: str, tensor: Tensor, shape: str, q: Tensor) -> None:
    dimensions = shape.count(",") + 1
    if tensor.ndim != dimensions:
        raise ValueError(f"{name} must have {dimensions} dimensions, {shape}; its shape is {_shape(tensor)}")
    if tensor.dtype in _FP8:
        raise NotImplementedError(
            f"{name} has no FP8 kernel yet: it must be torch.float16 or torch.bfloat16; it is {tensor.dtype}"
        )
    if tensor.dtype not in _DTYPES:
        raise TypeError(f"{name} must be torch.float16 or torch.bfloat16; it is {tensor.dtype}")
    if tensor.dtype != q.dtype:
        raise TypeError(f"{name} must have the dtype of q, {q.dtype}; it is {tensor.dtype}")
    # A meta tensor has no data; the shapes of its results can still be described.
    if tensor.device.type not in ("cuda", "meta"):
        raise ValueError(f"{name} must be a CUDA tensor; it is on {tensor.device}")
    if tensor.device != q.device:
        raise ValueError(f"{name} must be on the device of q, {q.device}; it is on {tensor.device}")


def _check_lengths(q: Tensor, lengths: Lengths) -> int:
    """Check the tensors that say where sequences begin and end; return the number of sequences."""
    cu_seqlens_q = lengths.cu_seqlens_q
    if cu_seqlens_q is not None:
        require_tensor("cu_seqlens_q", cu_seqlens_q)
        if cu_seqlens_q.ndim != 1 or cu_seqlens_q.shape[0] == 0:
            raise ValueError(
                f"cu_seqlens_q must have shape (batch + 1,); its shape is {_shape(cu_seqlens_q)}"
            )
    batch: int = q.shape[0] if cu_seqlens_q is None else cu_seqlens_q.shape[0] - 1
    for name, size in (
        ("cu_seqlens_q", batch + 1),
        ("cu_seqlens_k", batch + 1),
        ("seqused_q", batch),
        ("seqused_k", batch),
    ):
        tensor = getattr(lengths, name)
        if tensor is None:
            continue
        _check_index(name, tensor, q)
        if tensor.ndim != 1 or tensor.shape[0] != size:
            raise ValueError(f"{name} must have shape ({size},); its shape is {_shape(tensor)}")
        if not tensor.is_contiguous():
            raise ValueError(f"{name} must be contiguous; its stride is {tensor.stride()}")
    if lengths.page_table is not None:
        _check_page_table(lengths, q, batch)
    return batch


def _check_page_table(lengths: Lengths, q: Tensor, batch: int) -> None:
    table = lengths.page_table
    _check_index("page_table", table, q)
    if table.ndim != 2 or table.shape[0] != batch:
        raise ValueError(
            f"page_table must have shape (batch, pages) with batch {batch}; its shape is {_shape(table)}"
        )
    if table.shape[1] > 1 and table.stride(1) != 1:
        raise ValueError(f"page_table must have 1 as its last stride; its stride is {table.stride()}")
    if lengths.cu_seqlens_k is not None:
        raise ValueError("cu_seqlens_k must be None with page_table: pages are not packed")
    if lengths.seqused_k is None:
        raise ValueError("seqused_k must be given with page_table: pages do not say how many keys they hold")


def _check_index(name: str, tensor: Any, q: Tensor) -> None:
    require_tensor(name, tensor)
    if tensor.dtype != torch.int32:
        raise TypeError(f"{name} must be torch.int32; it is {tensor.dtype}")
    if tensor.device != q.device:
        raise ValueError(f"{name} must be on the device of q, {q.device}; it is on {tensor.device}")


def _check_shapes(q: Tensor, k: Tensor, v: Tensor, batch: int, lengths: Lengths) -> None:
    if lengths.cu_seqlens_k is None and lengths.page_table is None:
        for name, tensor in (("k", k), ("v", v)):
            if tensor.shape[0] != batch:
                raise ValueError(
                    f"{name} must have the batch size of q, {batch}; its shape is {_shape(tensor)}"
                )
    if lengths.page_table is not None and k.shape[1] == 0:
        raise ValueError(f"k must have a page_size of 1 or more; its shape is {_shape(k)}")
    if v.shape[:-1] != k.shape[:-1]:
        raise ValueError(f"v must have the seqlen and heads of k, {_shape(k)}; its shape is {_shape(v)}")
    heads, heads_kv = q.shape[-2], k.shape[-2]
    if heads_kv == 0 or heads % heads_kv != 0:
        raise ValueError(f"k must have a number of heads that divides q's {heads}; it has {heads_kv}")
    if k.shape[-1] != q.shape[-1]:
        raise ValueError(f"k must have the head_dim of q, {q.shape[-1]}; its shape is {_shape(k)}")


def _check_head_dims(q: Tensor, v: Tensor, op: str) -> None:
    for name, tensor in (("q", q), ("v", v)):
        if tensor.shape[-1] == 0:
            raise ValueError(f"{name} must have a head_dim of 1 or more; its shape is {_shape(tensor)}")
    held = {
        (kernel.head_dim, kernel.head_dim_v)
        for kernel in _native.kernels()
        if kernel.op == op and kernel.head_dim and kernel.dtype_in == _DTYPES[q.dtype]
    }
    if not any(q.shape[-1] <= head_dim and v.shape[-1] <= head_dim_v for head_dim, head_dim_v in held):
        pairs = ", ".join(f"{head_dim}/{head_dim_v}" for head_dim, head_dim_v in sorted(held)) or "none"
        raise NotImplementedError(
            f"q has head_dim {q.shape[-1]} and v has {v.shape[-1]}; "
            f"this build has kernels for {q.dtype} up to head_dim/head_dim_v {pairs}"
        )


def _check_sink(q: Tensor, sink: Any) -> None:
    require_tensor("learnable_sink", sink)
    if not sink.dtype.is_floating_point:
        raise TypeError(f"learnable_sink must have a floating dtype; it is {sink.dtype}")
    if sink.device != q.device:
        raise ValueError(f"learnable_sink must be on the device of q, {q.device}; it is on {sink.device}")
    if sink.ndim != 1 or sink.shape[0] != q.shape[-2]:
        raise ValueError(
            f"learnable_sink must have shape ({q.shape[-2]},), one for each head of q; "
            f"its shape is {_shape(sink)}"
        )


def _check_out(q: Tensor, v: Tensor, out: Any) -> None:
    require_tensor("out", out)
    if out.dtype != q.dtype:
        raise TypeError(f"out must have the dtype of q, {q.dtype}; it is {out.dtype}")
    if out.device != q.device:
        raise ValueError(f"out must be on the device of q, {q.device}; it is on {out.device}")
    wanted = (*q.shape[:-1], v.shape[-1])
    if tuple(out.shape) != wanted:
        raise ValueError(f"out must have shape {wanted}; its shape is {_shape(out)}")


def require_tensor(name: str, tensor: Any) -> None:
    """Refuse an argument that is no tensor.

    Raises:
        TypeError: it is none; the text names the argument.
    """
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor; its type is {type(tensor).__name__}")


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)
