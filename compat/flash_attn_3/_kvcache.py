"""``flash_attn_with_kvcache``: attention over a cache of keys and values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from flash_attn_3._forward import attend
from flash_attn_3._refusals import refuse_given, require_tensors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


def flash_attn_with_kvcache(  # noqa: PLR0917  callers pass these by position
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    k: Tensor | None = None,
    v: Tensor | None = None,
    qv: Tensor | None = None,
    rotary_cos: Tensor | None = None,
    rotary_sin: Tensor | None = None,
    cache_seqlens: int | Tensor | None = None,
    cache_batch_idx: Tensor | None = None,
    cache_leftpad: Tensor | None = None,
    page_table: Tensor | None = None,
    cu_seqlens_q: Tensor | None = None,
    cu_seqlens_k_new: Tensor | None = None,
    max_seqlen_q: int | Tensor | None = None,
    rotary_seqlens: Tensor | None = None,
    q_descale: Tensor | None = None,
    k_descale: Tensor | None = None,
    v_descale: Tensor | None = None,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: Sequence[int | Tensor] = (-1, -1),
    attention_chunk: int = 0,
    softcap: float = 0.0,
    rotary_interleaved: bool = True,  # noqa: ARG001  of no effect without rotary_cos
    scheduler_metadata: Tensor | None = None,  # noqa: ARG001  the kernels schedule themselves
    num_splits: int = 0,
    pack_gqa: bool | None = None,
    sm_margin: int = 0,
    return_softmax_lse: bool = False,
    learnable_sink: Tensor | None = None,
    s_aux: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor, Tensor, Tensor]:
    """Attention over a cache of keys and values, which is read and not changed.

    Args:
        q: (batch, seqlen_q, heads, head_dim), or (total_q, heads, head_dim) with cu_seqlens_q; float16 or
            bfloat16, on a CUDA device.
        k_cache: (batch, seqlen_cache, heads_kv, head_dim), or (pages, page_size, heads_kv, head_dim) with
            page_table; dtype and device of q.
        v_cache: like k_cache, with head_dim_v columns.
        k: no kernel yet; None. Write new keys to the cache before the call.
        v: no kernel yet; None.
        qv: no kernel yet; None.
        rotary_cos: no kernel yet; None.
        rotary_sin: no kernel yet; None.
        cache_seqlens: the number of first keys of each sequence that count: one number for all, or (batch,)
            int32 on the device of q. None: as many as the cache, or the page_table, has room for.
        cache_batch_idx: no kernel yet; None.
        cache_leftpad: no kernel yet; None.
        page_table: (batch, pages of the longest sequence) int32, any page_size.
        cu_seqlens_q: (batch + 1,) int32: first row of each sequence of a packed q, and the end of the last.
        cu_seqlens_k_new: without effect: it tells where new keys begin, and there are none without k.
        max_seqlen_q: as in ``flash_attn_varlen_func``; required with cu_seqlens_q.
        rotary_seqlens: without effect, as it has none without rotary_cos.
        q_descale: as in ``flash_attn_func``: without effect on 16-bit tensors.
        k_descale: likewise.
        v_descale: likewise.
        softmax_scale: ``head_dim ** -0.5`` when None.
        causal: aligned to the bottom right of each sequence's own lengths.
        window_size: (left, right), -1 for all.
        attention_chunk: 0 for none.
        softcap: 0 for none.
        rotary_interleaved: without effect, likewise.
        scheduler_metadata: without effect: the kernels need no plan.
        num_splits: the most parts that the keys may be split into; the kernels never split them.
        pack_gqa: a hint, without effect on the result.
        sm_margin: multiprocessors to leave free.
        return_softmax_lse: return the LSE as well.
        learnable_sink: (heads,): as in ``flash_attn_func``.
        s_aux: another name of learnable_sink.
        out: the tensor to write to and return.

    Returns:
        ``out``, like q with head_dim_v columns; or ``(out, lse, out_accum, lse_accum)`` with ``lse`` (batch,
        heads, seqlen_q) or (heads, total_q) float32, and two empty tensors in place of partial results.

    Raises:
        TypeError, ValueError, RuntimeError: as ``flash_attn_varlen_func`` does, whose k, v and seqused_k are
            k_cache, v_cache and cache_seqlens here.
        NotImplementedError: the argument has no kernel yet.
    """
    refuse_given(
        k=k,
        v=v,
        qv=qv,
        rotary_cos=rotary_cos,
        rotary_sin=rotary_sin,
        cache_batch_idx=cache_batch_idx,
        cache_leftpad=cache_leftpad,
    )
    require_tensors(cu_seqlens_k_new=cu_seqlens_k_new, rotary_seqlens=rotary_seqlens)
    seqused_k = _lengths(cache_seqlens, q, k_cache, page_table, cu_seqlens_q)
    # Without stars, which would take half a microsecond.
    results = attend(
        q, k_cache, v_cache, cu_seqlens_q, None, None, seqused_k, max_seqlen_q, None, page_table,
        softmax_scale, causal, q_descale, k_descale, v_descale, window_size, attention_chunk, softcap,
        num_splits, pack_gqa, sm_margin, learnable_sink, s_aux, out,
    )  # fmt: skip
    return results if return_softmax_lse else results[0]


def _lengths(
    given: int | Tensor | None,
    q: Tensor,
    k_cache: Tensor,
    page_table: Tensor | None,
    cu_seqlens_q: Tensor | None,
) -> Tensor | None:
    """Return the number of keys of each sequence; None where all rows of a dense cache count."""
    if given is None and page_table is None:
        return None
    if isinstance(given, torch.Tensor):
        if given.dtype != torch.int32:
            raise TypeError(f"cache_seqlens must be torch.int32; it is {given.dtype}")
        return given
    room = k_cache.shape[1] * (1 if page_table is None else page_table.shape[1])
    length = room if given is None else given
    if not isinstance(length, int):
        raise TypeError(
            f"cache_seqlens must be an int, a tensor or None; its type is {type(length).__name__}"
        )
    if not 0 <= length <= room:
        raise ValueError(f"cache_seqlens must be 0 to {room}, the cache's room; it is {length}")
    batch = q.shape[0] if cu_seqlens_q is None else cu_seqlens_q.shape[0] - 1
    return torch.full((batch,), length, dtype=torch.int32, device=q.device)
