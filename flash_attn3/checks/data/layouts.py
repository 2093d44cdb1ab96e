"""Memory layouts of q, k and v, each (batch, seqlen, heads, head_dim).

Every tensor is a view into a larger buffer filled with NaN, so that a read outside the view shows in the
result.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

_GUARD = 4096  # NaN elements before and after
_FAR = 1 << 31  # bytes that a 32-bit signed offset cannot hold


@dataclass(frozen=True)
class Placed:
    """Memory of one tensor: ``base`` is written, ``view`` (of the same memory) is passed."""

    base: Tensor
    view: Tensor


_Shape = tuple[int, ...]


def guarded(shape: _Shape, dtype: torch.dtype, device: torch.device, *, offset: int = 0) -> Tensor:
    """Return a contiguous tensor with NaN in, before and after it, ``offset`` elements off alignment."""
    size = math.prod(shape)
    buffer = torch.full((2 * _GUARD + offset + size,), torch.nan, dtype=dtype, device=device)
    return buffer[_GUARD + offset : _GUARD + offset + size].view(shape)


def _contiguous(shape: _Shape, dtype: torch.dtype, device: torch.device) -> Placed:
    base = guarded(shape, dtype, device)
    return Placed(base, base)


def _padded(shape: _Shape, dtype: torch.dtype, device: torch.device) -> Placed:
    """Put NaN behind every row; the strides suit the tensor copy engine for any head_dim."""
    batch, seqlen, heads, head_dim = shape
    buffer = guarded((batch, seqlen + 37, heads + 1, (head_dim + 15) // 8 * 8), dtype, device)
    buffer.fill_(torch.nan)
    base = buffer[:, 3 : 3 + seqlen, :heads, :head_dim]
    return Placed(base, base)


def _bhsd(shape: _Shape, dtype: torch.dtype, device: torch.device) -> Placed:
    batch, seqlen, heads, head_dim = shape
    base = guarded((batch, heads, seqlen, head_dim), dtype, device).transpose(1, 2)
    return Placed(base, base)


def _reversed_strides(shape: _Shape, dtype: torch.dtype, device: torch.device) -> Placed:
    batch, seqlen, heads, head_dim = shape
    base = guarded((heads, seqlen, batch, head_dim), dtype, device).transpose(0, 2)
    return Placed(base, base)


def _head_dim_slice(shape: _Shape, dtype: torch.dtype, device: torch.device) -> Placed:
    batch, seqlen, heads, head_dim = shape
    buffer = guarded((batch, seqlen, heads, 2 * head_dim + 64), dtype, device)
    buffer.fill_(torch.nan)
    base = buffer[..., 64 : 64 + head_dim]
    return Placed(base, base)


def _offset(shape: _Shape, dtype: torch.dtype, device: torch.device) -> Placed:
    base = guarded(
        shape, dtype, device, offset=8
    )  # 16 bytes: the least alignment that the tensor copy engine accepts
    return Placed(base, base)


def _misaligned(shape: _Shape, dtype: torch.dtype, device: torch.device) -> Placed:
    base = guarded(shape, dtype, device, offset=1)
    return Placed(base, base)


def _odd_row_stride(shape: _Shape, dtype: torch.dtype, device: torch.device) -> Placed:
    batch, seqlen, heads, head_dim = shape
    buffer = guarded((batch, seqlen, heads, head_dim + 3), dtype, device)
    buffer.fill_(torch.nan)
    return Placed(buffer[..., :head_dim], buffer[..., :head_dim])


def _strided_head_dim(shape: _Shape, dtype: torch.dtype, device: torch.device) -> Placed:
    buffer = guarded((*shape, 2), dtype, device)
    buffer.fill_(torch.nan)
    return Placed(buffer[..., 0], buffer[..., 0])


def _head_dim_outermost(shape: _Shape, dtype: torch.dtype, device: torch.device) -> Placed:
    batch, seqlen, heads, head_dim = shape
    base = guarded((batch, head_dim, heads, seqlen), dtype, device).transpose(1, 3)
    return Placed(base, base)


def _expanded_heads(shape: _Shape, dtype: torch.dtype, device: torch.device) -> Placed:
    base = guarded((shape[0], shape[1], 1, shape[3]), dtype, device)
    return Placed(base, base.expand(shape))


def _expanded_batch(shape: _Shape, dtype: torch.dtype, device: torch.device) -> Placed:
    base = guarded((1, *shape[1:]), dtype, device)
    return Placed(base, base.expand(shape))


def _far_batches(shape: _Shape, dtype: torch.dtype, device: torch.device) -> Placed:
    """Put batch items more than 2 GiB apart."""
    item = math.prod(shape[1:])
    stride = _FAR // dtype.itemsize + 1024
    buffer = torch.empty(stride * (shape[0] - 1) + item, dtype=dtype, device=device)
    base = buffer.as_strided(shape, (stride, shape[2] * shape[3], shape[3], 1))
    return Placed(base, base)


def _qkv_packed(tensors: tuple[Tensor, Tensor, Tensor], dtype: torch.dtype) -> list[Placed]:
    batch, seqlen, heads, head_dim = tensors[0].shape
    packed = guarded((batch, seqlen, 3, heads, head_dim), dtype, tensors[0].device)
    return [Placed(part, part) for part in packed.unbind(2)]


def _kv_packed(tensors: tuple[Tensor, Tensor, Tensor], dtype: torch.dtype) -> list[Placed]:
    q, k, _ = tensors
    batch, seqlen, heads, head_dim = k.shape
    packed = guarded((batch, seqlen, 2, heads, head_dim), dtype, k.device)
    alone = _contiguous(tuple(q.shape), dtype, q.device)
    return [alone, *(Placed(part, part) for part in packed.unbind(2))]


LAYOUTS: dict[str, Callable[[_Shape, torch.dtype, torch.device], Placed]] = {
    "contiguous": _contiguous,
    "padded": _padded,
    "bhsd": _bhsd,
    "reversed_strides": _reversed_strides,
    "head_dim_slice": _head_dim_slice,
    "offset": _offset,
    "misaligned": _misaligned,
    "odd_row_stride": _odd_row_stride,
    "strided_head_dim": _strided_head_dim,
    "head_dim_outermost": _head_dim_outermost,
    "expanded_heads": _expanded_heads,
    "expanded_batch": _expanded_batch,
    "far_batches": _far_batches,
}
PACKED_LAYOUTS: dict[str, Callable[[tuple[Tensor, Tensor, Tensor], torch.dtype], list[Placed]]] = {
    "qkv_packed": _qkv_packed,
    "kv_packed": _kv_packed,
}
