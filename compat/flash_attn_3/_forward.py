"""Attention forward with the arguments of FlashAttention-3, for the operator ``fwd`` and the functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flash_attn3 import flash_attn_func, flash_attn_varlen_func
from flash_attn_3._longest import longest
from flash_attn_3._refusals import refuse_given, require_tensors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


def flash_attn_forward(  # noqa: PLR0917  callers pass these by position
    q: Tensor,
    k: Tensor,
    v: Tensor,
    k_new: Tensor | None = None,
    v_new: Tensor | None = None,
    qv: Tensor | None = None,
    out_: Tensor | None = None,
    cu_seqlens_q: Tensor | None = None,
    cu_seqlens_k: Tensor | None = None,
    cu_seqlens_k_new: Tensor | None = None,
    seqused_q: Tensor | None = None,
    seqused_k: Tensor | None = None,
    max_seqlen_q: int | Tensor | None = None,
    max_seqlen_k: int | Tensor | None = None,
    page_table: Tensor | None = None,
    kv_batch_idx: Tensor | None = None,
    leftpad_k: Tensor | None = None,
    rotary_cos: Tensor | None = None,
    rotary_sin: Tensor | None = None,
    seqlens_rotary: Tensor | None = None,
    q_descale: Tensor | None = None,
    k_descale: Tensor | None = None,
    v_descale: Tensor | None = None,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size_left: int = -1,
    window_size_right: int = -1,
    attention_chunk: int = 0,
    softcap: float = 0.0,
    rotary_interleaved: bool = True,  # noqa: ARG001  of no effect without rotary_cos
    scheduler_metadata: Tensor | None = None,  # noqa: ARG001  the kernels schedule themselves
    num_splits: int = 1,
    pack_gqa: bool | None = None,
    sm_margin: int = 0,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute attention for sequences of one length, packed, padded or in pages.

    Every tensor and option that is not described here is as in ``flash_attn3.flash_attn_varlen_func``.

    Args:
        q: (batch, seqlen_q, heads, head_dim), or (total_q, heads, head_dim) with cu_seqlens_q.
        k: (batch, seqlen_k, heads_kv, head_dim), (total_k, heads_kv, head_dim) with cu_seqlens_k, or (pages,
            page_size, heads_kv, head_dim) with page_table.
        v: like k, with head_dim_v columns.
        k_new: no kernel yet; None.
        v_new: no kernel yet; None.
        qv: no kernel yet; None.
        out_: like q, with head_dim_v columns, of any strides that ``out`` of flash_attn3 may have: the tensor
            to write to and return.
        cu_seqlens_q: (batch + 1,) int32.
        cu_seqlens_k: (batch + 1,) int32.
        cu_seqlens_k_new: without effect: it tells where new keys begin, and there are none without k_new.
        seqused_q: (batch,) int32.
        seqused_k: (batch,) int32.
        max_seqlen_q: required with cu_seqlens_q, else without effect. The operator takes an int alone.
        max_seqlen_k: required with cu_seqlens_k, else without effect. The operator takes an int alone.
        page_table: (batch, pages of the longest sequence) int32.
        kv_batch_idx: no kernel yet; None.
        leftpad_k: no kernel yet; None.
        rotary_cos: no kernel yet; None.
        rotary_sin: no kernel yet; None.
        seqlens_rotary: without effect, as it has none without rotary_cos.
        q_descale: as in ``flash_attn3.flash_attn_func``: without effect on 16-bit tensors.
        k_descale: likewise.
        v_descale: likewise.
        softmax_scale: ``head_dim ** -0.5`` when None.
        causal: aligned to the bottom right.
        window_size_left: -1 for all keys.
        window_size_right: -1 for all keys.
        attention_chunk: 0 for none.
        softcap: 0 for none.
        rotary_interleaved: without effect, likewise.
        scheduler_metadata: without effect: the kernels need no plan.
        num_splits: a hint, without effect on the result.
        pack_gqa: a hint, without effect on the result.
        sm_margin: multiprocessors to leave free.

    Returns:
        ``(out, lse, out_accum, lse_accum)``: ``out`` like q with head_dim_v columns; ``lse`` (batch, heads,
        seqlen_q) or (heads, total_q) float32; and two empty tensors in place of partial results.

    Raises:
        TypeError, ValueError, RuntimeError: as ``flash_attn3.flash_attn_varlen_func`` does.
        NotImplementedError: the argument has no kernel yet.
    """
    refuse_given(
        k_new=k_new,
        v_new=v_new,
        qv=qv,
        kv_batch_idx=kv_batch_idx,
        leftpad_k=leftpad_k,
        rotary_cos=rotary_cos,
        rotary_sin=rotary_sin,
    )
    require_tensors(cu_seqlens_k_new=cu_seqlens_k_new, seqlens_rotary=seqlens_rotary)
    # Without stars, which would take half a microsecond.
    return attend(
        q, k, v, cu_seqlens_q, cu_seqlens_k, seqused_q, seqused_k, max_seqlen_q, max_seqlen_k, page_table,
        softmax_scale, causal, q_descale, k_descale, v_descale,
        (window_size_left, window_size_right), attention_chunk, softcap,
        num_splits, pack_gqa, sm_margin, None, None, out_,
    )  # fmt: skip


def attend(  # noqa: PLR0917  by position: keywords cost host time
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor | None,
    cu_seqlens_k: Tensor | None,
    seqused_q: Tensor | None,
    seqused_k: Tensor | None,
    max_seqlen_q: int | Tensor | None,
    max_seqlen_k: int | Tensor | None,
    page_table: Tensor | None,
    softmax_scale: float | None,
    causal: bool,
    q_descale: Tensor | None,
    k_descale: Tensor | None,
    v_descale: Tensor | None,
    window_size: Sequence[int | Tensor],
    attention_chunk: int,
    softcap: float,
    num_splits: int,
    pack_gqa: bool | None,
    sm_margin: int,
    learnable_sink: Tensor | None,
    s_aux: Tensor | None,
    out: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Call the function of flash_attn3 that takes these arguments, and return what ``fwd`` returns.

    Raises:
        TypeError, ValueError, NotImplementedError, RuntimeError: as that function does.
    """
    if cu_seqlens_q is cu_seqlens_k is seqused_q is seqused_k is page_table is None:
        written, lse = flash_attn_func(
            q, k, v, softmax_scale, causal, None, q_descale, k_descale, v_descale,
            window_size, attention_chunk, softcap,
            num_splits, pack_gqa, False, sm_margin, True, learnable_sink, s_aux, out,
        )  # fmt: skip
    else:
        written, lse = flash_attn_varlen_func(
            q, k, v, cu_seqlens_q, cu_seqlens_k,
            longest("max_seqlen_q", max_seqlen_q, cu_seqlens_q),
            longest("max_seqlen_k", max_seqlen_k, cu_seqlens_k),
            seqused_q, seqused_k,
            softmax_scale, causal, None, q_descale, k_descale, v_descale,
            window_size, attention_chunk, softcap,
            num_splits, pack_gqa, False, sm_margin, True, page_table, learnable_sink, s_aux, out,
        )  # fmt: skip
    return written, lse, lse.new_empty(0), lse.new_empty(0)
