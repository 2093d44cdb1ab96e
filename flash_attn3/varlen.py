"""The public attention function for sequences of different lengths: packed, padded or in pages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flash_attn3._check.arguments import resolve_options
from flash_attn3._check.longest import read_longest
from flash_attn3._forward import forward, forward_general, forward_varlen

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


def flash_attn_varlen_func(  # noqa: PLR0917  callers pass these by position
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor | None,
    cu_seqlens_k: Tensor | None,
    max_seqlen_q: int | Tensor,
    max_seqlen_k: int | Tensor,
    seqused_q: Tensor | None = None,
    seqused_k: Tensor | None = None,
    softmax_scale: float | None = None,
    causal: bool = False,
    qv: Tensor | None = None,
    q_descale: Tensor | None = None,
    k_descale: Tensor | None = None,
    v_descale: Tensor | None = None,
    window_size: Sequence[int | Tensor] = (-1, -1),
    attention_chunk: int = 0,
    softcap: float = 0.0,
    num_splits: int = 1,
    pack_gqa: bool | None = None,
    deterministic: bool = False,
    sm_margin: int = 0,
    return_attn_probs: bool = False,
    page_table: Tensor | None = None,
    learnable_sink: Tensor | None = None,
    s_aux: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Exact attention for sequences of different lengths, each as ``flash_attn_func`` computes it.

    Sequence i of q is rows ``cu_seqlens_q[i]`` to ``cu_seqlens_q[i + 1]`` of a packed q, or item i of a
    padded one (cu_seqlens_q is None); ``seqused_q[i]``, where given, is the number of its first rows that
    count. The same holds for k and v, which may also lie in pages. Lengths may be 0; masks are aligned to
    the bottom right of each sequence's own lengths. No length is read on the host, so a call never waits for
    the device and can be captured in a CUDA graph. The output of a sequence has the same bits whatever else
    is in the batch, and does not depend on what lies in rows of k and v that no sequence uses, NaN included.

    Args:
        q: (total_q, heads, head_dim) with cu_seqlens_q, else (batch, seqlen_q, heads, head_dim); float16 or
            bfloat16, on a CUDA device.
        k: (total_k, heads_kv, head_dim) with cu_seqlens_k, else (batch, seqlen_k, heads_kv, head_dim), or
            (pages, page_size, heads_kv, head_dim) with page_table; dtype and device of q.
        v: like k, with head_dim_v columns.
        cu_seqlens_q: (batch + 1,) int32, on the device of q: first row of each sequence of q, and the end of
            the last. None: q is padded.
        cu_seqlens_k: the same for k and v.
        max_seqlen_q: an upper bound of the lengths of q; no bit of the results depends on it. A tensor of one
            integer, too: on a device it is not read, and the rows of all sequences together are the bound.
            Without effect where cu_seqlens_q is None.
        max_seqlen_k: the same for k. Without effect where cu_seqlens_k is None.
        seqused_q: (batch,) int32, on the device of q: number of rows of each sequence of q that count. The
            other rows of ``out`` and of the LSE are unspecified. None: all count.
        seqused_k: the same for k and v; required with page_table.
        softmax_scale: factor of ``q @ k.T``; ``head_dim ** -0.5`` when None.
        causal: mask key j of a sequence for its query i unless ``j <= i + seqlen_k - seqlen_q``.
        qv: no kernel yet; None.
        q_descale: as in ``flash_attn_func``.
        k_descale: as in ``flash_attn_func``.
        v_descale: as in ``flash_attn_func``.
        window_size: as in ``flash_attn_func``.
        attention_chunk: as in ``flash_attn_func``.
        softcap: as in ``flash_attn_func``.
        num_splits: as in ``flash_attn_func``.
        pack_gqa: a hint, without effect on the result.
        deterministic: as in ``flash_attn_func``.
        sm_margin: multiprocessors to leave free for other work on the device.
        return_attn_probs: return the LSE as well; the probabilities themselves are never formed.
        page_table: (batch, pages of the longest sequence) int32, on the device of q: key j of sequence i is
            row ``j % page_size`` of page ``page_table[i, j // page_size]``. Any page_size; entries beyond a
            sequence's keys may hold anything. Excludes cu_seqlens_k.
        learnable_sink: as in ``flash_attn_func``.
        s_aux: another name of learnable_sink.
        out: the tensor to write to and return, of the shape below; as in ``flash_attn_func``.

    Returns:
        ``out``, (total_q, heads, head_dim_v) or (batch, seqlen_q, heads, head_dim_v), dtype of q, contiguous
        when head_dim_v is a multiple of 8 and else with rows padded to one; or ``(out, lse)`` with ``lse``
        (heads, total_q) or (batch, heads, seqlen_q) float32, natural logarithm.

    Raises:
        TypeError: an argument has a wrong type or dtype.
        ValueError: a shape, device or value does not fit.
        NotImplementedError: the argument is valid and has no kernel yet; also raised by second derivatives.
        RuntimeError: there is no CUDA driver, it is too old, or this build has no kernel for the GPU.
    """
    # Without stars, which would take half a microsecond.
    options = resolve_options(
        window_size, learnable_sink, s_aux, softcap, attention_chunk, sm_margin,
        num_splits, pack_gqa, deterministic, qv, q_descale, k_descale, v_descale,
    )  # fmt: skip
    longest_q = 0 if cu_seqlens_q is None else max_seqlen_q
    longest_k = 0 if cu_seqlens_k is None else max_seqlen_k
    if type(longest_q) is not int:
        longest_q = read_longest("max_seqlen_q", longest_q, q)
    if type(longest_k) is not int:
        longest_k = read_longest("max_seqlen_k", longest_k, k)
    lengths: tuple[Any, ...] = (cu_seqlens_q, cu_seqlens_k, longest_q, longest_k)
    operator = forward_varlen
    if seqused_q is not None or seqused_k is not None or page_table is not None:
        lengths += (seqused_q, seqused_k, page_table)
        operator = forward_general
    result = forward(operator, q, k, v, softmax_scale, causal, lengths, options, out, deterministic)
    return result if return_attn_probs else result[0]
