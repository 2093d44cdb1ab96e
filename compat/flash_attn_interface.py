"""The functions of FlashAttention-3 under the module name that its callers import.

``flash_attn_func``, ``flash_attn_varlen_func``, ``flash_attn_qkvpacked_func`` and ``flash_attn_combine`` are
those of flash_attn3. An argument without a kernel there raises ``NotImplementedError``.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import torch

import flash_attn_3._C  # noqa: F401  registers the operators
from flash_attn3 import (
    flash_attn_combine,
    flash_attn_func,
    flash_attn_qkvpacked_func,
    flash_attn_varlen_func,
)
from flash_attn_3 import _kvcache
from flash_attn_3._appending import appends
from flash_attn_3._forward import flash_attn_forward as _flash_attn_forward
from flash_attn_3._refusals import refuse_given

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from flash_attn_3._kvcache import flash_attn_with_kvcache

__all__ = [
    "_flash_attn_backward",
    "_flash_attn_forward",
    "flash_attn_combine",
    "flash_attn_func",
    "flash_attn_qkvpacked_func",
    "flash_attn_varlen_func",
    "flash_attn_with_kvcache",
    "get_scheduler_metadata",
]


def __getattr__(name: str) -> Any:
    """Return ``flash_attn_with_kvcache``, or None where the caller would append to a cache through it."""
    if name != "flash_attn_with_kvcache":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    caller = sys._getframe(1).f_globals.get("__name__", "")  # noqa: SLF001  of CPython, as torch is
    return None if appends(caller) else _kvcache.flash_attn_with_kvcache


def get_scheduler_metadata(  # noqa: PLR0917  callers pass these by position
    batch_size: int,
    max_seqlen_q: int | Tensor,
    max_seqlen_k: int | Tensor,
    num_heads_q: int,
    num_heads_kv: int,
    headdim: int,
    cache_seqlens: Tensor,
    qkv_dtype: torch.dtype = torch.bfloat16,
    headdim_v: int | None = None,
    cu_seqlens_q: Tensor | None = None,
    cu_seqlens_k_new: Tensor | None = None,
    cache_leftpad: Tensor | None = None,
    page_size: int | None = None,
    max_seqlen_k_new: int = 0,
    causal: bool = False,
    window_size: Sequence[int | Tensor] = (-1, -1),
    attention_chunk: int = 0,
    has_softcap: bool = False,
    num_splits: int = 0,
    pack_gqa: bool | None = None,
    sm_margin: int = 0,
) -> Tensor:
    """Plan a call of ``flash_attn_with_kvcache`` that has these arguments.

    Returns:
        An empty int32 tensor on the device of cache_seqlens, for ``scheduler_metadata``: the kernels schedule
        themselves and need no plan.

    Raises:
        NotImplementedError: a call with this argument would have no kernel yet.
    """
    refuse_given(cache_leftpad=cache_leftpad)  # the operator has another name for it
    left, right = window_size
    plan: Tensor = torch.ops.flash_attn_3.get_scheduler_metadata(
        batch_size,
        # The operator takes numbers, which a plan does not depend on: a tensor is not read from its device.
        *(0 if isinstance(longest, torch.Tensor) else longest for longest in (max_seqlen_q, max_seqlen_k)),
        *(num_heads_q, num_heads_kv, headdim),
        headdim if headdim_v is None else headdim_v,
        qkv_dtype,
        cache_seqlens,
        cu_seqlens_q=cu_seqlens_q,
        cu_seqlens_k_new=cu_seqlens_k_new,
        leftpad_k=cache_leftpad,
        page_size=page_size,
        max_seqlen_k_new=max_seqlen_k_new,
        is_causal=causal,
        window_size_left=left,
        window_size_right=right,
        attention_chunk=attention_chunk,
        has_softcap=has_softcap,
        num_splits=num_splits,
        pack_gqa=pack_gqa,
        sm_margin=sm_margin,
    )
    return plan


def _flash_attn_backward(  # noqa: PLR0917  callers pass these by position
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    softmax_lse: Tensor,
    cu_seqlens_q: Tensor | None = None,
    cu_seqlens_k: Tensor | None = None,
    sequed_q: Tensor | None = None,
    sequed_k: Tensor | None = None,
    max_seqlen_q: int | None = None,
    max_seqlen_k: int | None = None,
    dq: Tensor | None = None,
    dk: Tensor | None = None,
    dv: Tensor | None = None,
    softmax_scale: float | None = None,
    is_causal: bool = False,
    window_size_left: int = -1,
    window_size_right: int = -1,
    softcap: float = 0.0,
    deterministic: bool = False,
    sm_margin: int = 0,
) -> Tensor:
    """Write the gradients of q, k and v to dq, dk and dv, see ``flash_attn_3._backward``.

    Returns:
        The first result of the operator ``flash_attn_3::bwd``, a tensor without elements.

    Raises:
        TypeError, ValueError: an argument is wrong; the text names it.
    """
    softmax_d: Tensor
    softmax_d, *_ = torch.ops.flash_attn_3.bwd(
        *(dout, q, k, v, out, softmax_lse, dq, dk, dv),
        *(cu_seqlens_q, cu_seqlens_k, sequed_q, sequed_k, max_seqlen_q, max_seqlen_k),
        *(softmax_scale, is_causal, window_size_left, window_size_right, softcap, deterministic, sm_margin),
    )
    return softmax_d
