"""The operators that append to a cache of keys and values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flash_attn3._check.cache import check_append
from flash_attn3._ops.operator import Operator

if TYPE_CHECKING:
    from torch import Tensor

_ROW_ELEMENTS = 8  # attention reads rows that start at multiples of 8 elements, 16 bytes


def _describe(
    _k_cache: Tensor, _v_cache: Tensor, _k: Tensor, _v: Tensor, cache_seqlens: Tensor, *_options: Any
) -> Tensor:
    return cache_seqlens.new_empty(cache_seqlens.shape)


APPEND = Operator("append", kernel="append", check=check_append, describe=_describe)

_Q = 12  # among the arguments


def _describe_rotating(*arguments: Any) -> tuple[Tensor, Tensor]:
    q: Tensor = arguments[_Q]
    head_dim = q.shape[-1]
    padded = -(-head_dim // _ROW_ELEMENTS) * _ROW_ELEMENTS
    rotated = q.new_empty((*q.shape[:-1], padded))
    return _describe(*arguments), rotated if padded == head_dim else rotated[..., :head_dim]


APPEND_ROTATING = Operator(
    "append_rotating", kernel="append", check=check_append, describe=_describe_rotating
)
