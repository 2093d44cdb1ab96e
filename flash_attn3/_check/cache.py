"""Checks of appending to a cache of keys and values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from flash_attn3 import _native
from flash_attn3._check.tensors import require_tensor

if TYPE_CHECKING:
    from torch import Tensor

_DTYPES = (torch.float16, torch.bfloat16)
_FP8 = frozenset({torch.float8_e4m3fn, torch.float8_e5m2})


def check_append(  # noqa: PLR0917  the order of the operators
    k_cache: Any,
    v_cache: Any,
    k: Any,
    v: Any,
    cache_seqlens: Any,
    cache_batch_idx: Any = None,
    page_table: Any = None,
    cu_seqlens_k_new: Any = None,
    rotary_cos: Any = None,
    rotary_sin: Any = None,
    rotary_seqlens: Any = None,
    rotary_interleaved: Any = True,  # noqa: ARG001  torch makes it a bool
    q: Any = None,
    cu_seqlens_q: Any = None,
    q_advances: Any = False,  # noqa: ARG001  likewise
) -> None:
    """Refuse arguments that the operators which append cannot take.

    Raises:
        TypeError: one of them has a wrong type or dtype.
        ValueError: a device, rank, size or stride does not fit, or the cache has no room for the new rows.
        NotImplementedError: this build holds no kernel that appends, or none for FP8.
    """
    _check_operands(k_cache, {"k_cache": k_cache, "v_cache": v_cache, "k": k, "v": v})
    batch = _check_indices(
        k_cache,
        {
            "cache_seqlens": (cache_seqlens, 0),
            "cache_batch_idx": (cache_batch_idx, 0),
            "cu_seqlens_k_new": (cu_seqlens_k_new, 1),
            "rotary_seqlens": (rotary_seqlens, 0),
            "cu_seqlens_q": (cu_seqlens_q, 1),
        },
    )
    room = _check_cache(k_cache, v_cache, batch, cache_batch_idx, page_table)
    packed = cu_seqlens_k_new is not None
    _check_new(k_cache, v_cache, k, v, batch=batch, packed=packed)
    _check_room(k, batch, packed, room, page_table)
    if rotary_cos is not None or rotary_sin is not None:
        _check_rotary(k_cache, rotary_cos, rotary_sin)
        if not packed and k.shape[1] > rotary_cos.shape[0]:
            raise ValueError(
                f"rotary_cos must have at least {k.shape[1]} positions, the rows of k; "
                f"its shape is {tuple(rotary_cos.shape)}"
            )
    if q is not None:
        _check_q(k_cache, q, batch, cu_seqlens_q is not None, rotary_cos)
    if not any(kernel.op == "append" for kernel in _native.kernels()):
        raise NotImplementedError("this build has no kernel that appends to a cache")


def _check_operands(k_cache: Any, tensors: dict[str, Any]) -> None:
    for name, tensor in tensors.items():
        require_tensor(name, tensor)
    for name, tensor in tensors.items():
        if tensor.dtype in _FP8:
            raise NotImplementedError(
                f"{name} has no FP8 kernel yet: it must be torch.float16 or torch.bfloat16; "
                f"it is {tensor.dtype}"
            )
        if tensor.dtype not in _DTYPES:
            raise TypeError(f"{name} must be torch.float16 or torch.bfloat16; it is {tensor.dtype}")
        _check_like_cache(name, tensor, k_cache)
        # A meta tensor has no data; the shapes of its results can still be described.
        if tensor.device.type not in ("cuda", "meta"):
            raise ValueError(f"{name} must be a CUDA tensor; it is on {tensor.device}")


def _check_like_cache(name: str, tensor: Tensor, k_cache: Tensor) -> None:
    if tensor.dtype != k_cache.dtype:
        raise TypeError(f"{name} must have the dtype of k_cache, {k_cache.dtype}; it is {tensor.dtype}")
    if tensor.device != k_cache.device:
        raise ValueError(
            f"{name} must be on the device of k_cache, {k_cache.device}; it is on {tensor.device}"
        )


def _check_indices(k_cache: Tensor, arrays: dict[str, tuple[Any, int]]) -> int:
    """Check arrays of the size of the batch, and more; return the number of sequences."""
    batch = -1
    for name, (tensor, more) in arrays.items():
        if tensor is None and batch >= 0:
            continue
        check_index_tensor(name, tensor, k_cache, "k_cache")
        if tensor.ndim != 1:
            raise ValueError(f"{name} must have 1 dimension; its shape is {tuple(tensor.shape)}")
        batch = tensor.shape[0] if batch < 0 else batch
        if tensor.shape[0] != batch + more:
            raise ValueError(
                f"{name} must have shape ({batch + more},) where cache_seqlens has {batch} elements; "
                f"its shape is {tuple(tensor.shape)}"
            )
        if not tensor.is_contiguous():
            raise ValueError(f"{name} must be contiguous; its stride is {tensor.stride()}")
    return batch


def check_index_tensor(name: str, tensor: Any, other: Tensor, other_name: str) -> None:
    """Refuse what is no int32 tensor on the device of another tensor.

    Raises:
        TypeError: it is no tensor, or of another dtype.
        ValueError: it is on another device.
    """
    require_tensor(name, tensor)
    if tensor.dtype != torch.int32:
        raise TypeError(f"{name} must be torch.int32; it is {tensor.dtype}")
    if tensor.device != other.device:
        raise ValueError(
            f"{name} must be on the device of {other_name}, {other.device}; it is on {tensor.device}"
        )


def _check_cache(k_cache: Tensor, v_cache: Tensor, batch: int, cache_batch_idx: Any, page_table: Any) -> int:
    """Check the cache; return the rows that a sequence can have in it."""
    check_cache_ranks(k_cache, v_cache, page_table)
    for name, tensor in (("k_cache", k_cache), ("v_cache", v_cache)):
        if tensor.shape[3] == 0:
            raise ValueError(f"{name} must have a head_dim of 1 or more; its shape is {tuple(tensor.shape)}")
        if tensor.stride(3) != 1 and tensor.shape[3] > 1:
            raise ValueError(f"{name} must have 1 as its last stride; its stride is {tensor.stride()}")
    if v_cache.shape[:3] != k_cache.shape[:3]:
        raise ValueError(
            f"v_cache must have the first three sizes of k_cache, {tuple(k_cache.shape)}; "
            f"its shape is {tuple(v_cache.shape)}"
        )
    if page_table is None:
        if cache_batch_idx is None and k_cache.shape[0] != batch:
            raise ValueError(
                f"k_cache must have the batch size of cache_seqlens, {batch}, or cache_batch_idx must be "
                f"given; its shape is {tuple(k_cache.shape)}"
            )
        return k_cache.shape[1]
    if cache_batch_idx is not None:
        raise ValueError("cache_batch_idx must be None with page_table: pages say where a sequence lies")
    return _check_pages(k_cache, page_table, batch)


def check_cache_ranks(k_cache: Any, v_cache: Any, page_table: Any) -> None:
    """Refuse a cache or a page_table of another rank.

    Raises:
        TypeError: one of them is no tensor.
        ValueError: one of them has another number of dimensions.
    """
    dimensions = "batch, seqlen" if page_table is None else "pages, page_size"
    for name, tensor in (("k_cache", k_cache), ("v_cache", v_cache)):
        require_tensor(name, tensor)
        if tensor.ndim != 4:
            raise ValueError(
                f"{name} must have 4 dimensions, ({dimensions}, heads, head_dim); "
                f"its shape is {tuple(tensor.shape)}"
            )
    if page_table is not None:
        require_tensor("page_table", page_table)
        if page_table.ndim != 2:
            raise ValueError(
                f"page_table must have shape (batch, pages); its shape is {tuple(page_table.shape)}"
            )


def _check_pages(k_cache: Tensor, page_table: Any, batch: int) -> int:
    check_index_tensor("page_table", page_table, k_cache, "k_cache")
    if page_table.shape[0] != batch:
        raise ValueError(
            f"page_table must have shape (batch, pages) with batch {batch}; "
            f"its shape is {tuple(page_table.shape)}"
        )
    if page_table.shape[1] > 1 and page_table.stride(1) != 1:
        raise ValueError(f"page_table must have 1 as its last stride; its stride is {page_table.stride()}")
    if k_cache.shape[1] == 0:
        raise ValueError(f"k_cache must have a page_size of 1 or more; its shape is {tuple(k_cache.shape)}")
    return page_table.shape[1] * k_cache.shape[1]  # type: ignore[no-any-return]


def _check_new(k_cache: Tensor, v_cache: Tensor, k: Tensor, v: Tensor, *, batch: int, packed: bool) -> None:
    shape = "(total, heads, head_dim)" if packed else "(batch, seqlen, heads, head_dim)"
    for name, tensor, cache in (("k", k, k_cache), ("v", v, v_cache)):
        if tensor.ndim != (3 if packed else 4):
            raise ValueError(
                f"{name} must have {3 if packed else 4} dimensions, {shape}; "
                f"its shape is {tuple(tensor.shape)}"
            )
        if not packed and tensor.shape[0] != batch:
            raise ValueError(
                f"{name} must have the batch size of cache_seqlens, {batch}; "
                f"its shape is {tuple(tensor.shape)}"
            )
        if tensor.shape[-2:] != cache.shape[-2:]:
            raise ValueError(
                f"{name} must have the heads and head_dim of {name}_cache, {tuple(cache.shape)}; "
                f"its shape is {tuple(tensor.shape)}"
            )
    if v.shape[-3] != k.shape[-3]:
        raise ValueError(f"v must have the rows of k, {tuple(k.shape)}; its shape is {tuple(v.shape)}")


def _check_room(k: Tensor, batch: int, packed: bool, room: int, page_table: Any) -> None:
    rows = k.shape[0] if packed else k.shape[1]
    if batch == 0 or rows <= (batch * room if packed else room):
        return
    if page_table is None:
        raise ValueError(
            f"k_cache must have room for the new rows, {rows}{'' if packed else ' for each sequence'}; "
            f"a sequence has {room}"
        )
    raise ValueError(
        f"page_table must be wide enough for the new rows, {rows}{'' if packed else ' for each sequence'}; "
        f"its {page_table.shape[1]} columns hold {room} for a sequence"
    )


def _check_rotary(k_cache: Tensor, rotary_cos: Any, rotary_sin: Any) -> None:
    for name, table in (("rotary_cos", rotary_cos), ("rotary_sin", rotary_sin)):
        if table is None:
            raise ValueError(f"{name} must be given with the other table; it is None")
        require_tensor(name, table)
        _check_like_cache(name, table, k_cache)
        if table.ndim != 2:
            raise ValueError(
                f"{name} must have shape (positions, rotary_dim / 2); its shape is {tuple(table.shape)}"
            )
        if table.shape[1] > 1 and table.stride(1) != 1:
            raise ValueError(f"{name} must have 1 as its last stride; its stride is {table.stride()}")
    if rotary_sin.shape != rotary_cos.shape:
        raise ValueError(
            f"rotary_sin must have the shape of rotary_cos, {tuple(rotary_cos.shape)}; "
            f"its shape is {tuple(rotary_sin.shape)}"
        )
    half, head_dim = rotary_cos.shape[1], k_cache.shape[3]
    if half < 1 or 2 * half > head_dim:
        raise ValueError(
            f"rotary_cos must have 1 to {head_dim // 2} columns, half of the head_dim at most; "
            f"its shape is {tuple(rotary_cos.shape)}"
        )


def _check_q(k_cache: Tensor, q: Any, batch: int, packed: bool, rotary_cos: Any) -> None:
    require_tensor("q", q)
    _check_like_cache("q", q, k_cache)
    if rotary_cos is None:
        raise ValueError("rotary_cos must be given with q, which is only rotated")
    if q.ndim != (3 if packed else 4):
        shape = "(total_q, heads, head_dim)" if packed else "(batch, seqlen, heads, head_dim)"
        raise ValueError(
            f"q must have {3 if packed else 4} dimensions, {shape}; its shape is {tuple(q.shape)}"
        )
    if not packed and q.shape[0] != batch:
        raise ValueError(
            f"q must have the batch size of cache_seqlens, {batch}; its shape is {tuple(q.shape)}"
        )
    if q.shape[-1] != k_cache.shape[-1]:
        raise ValueError(
            f"q must have the head_dim of k_cache, {k_cache.shape[-1]}; its shape is {tuple(q.shape)}"
        )
