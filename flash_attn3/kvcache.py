"""The public functions for a cache of keys and values: attention over it, appending to it, and its plan."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from flash_attn3._cache import Cache, advances, batch_of, place_keys, resolve_lengths
from flash_attn3._check.arguments import resolve_options
from flash_attn3._check.cache import check_append, check_cache_ranks
from flash_attn3._check.longest import read_longest
from flash_attn3._check.tensors import require_tensor
from flash_attn3._forward import forward, forward_general, forward_masked
from flash_attn3._ops.append import APPEND, APPEND_ROTATING
from flash_attn3._ops.operator import REFUSALS, explain

if TYPE_CHECKING:
    from collections.abc import Sequence

_append = APPEND.call
_append_rotating = APPEND_ROTATING.call


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
    rotary_interleaved: bool = True,
    scheduler_metadata: Tensor | None = None,  # noqa: ARG001  the kernels schedule themselves
    num_splits: int = 0,
    pack_gqa: bool | None = None,
    sm_margin: int = 0,
    return_softmax_lse: bool = False,
    learnable_sink: Tensor | None = None,
    s_aux: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor, Tensor, Tensor]:
    """Attention over a cache of keys and values, to which new ones are appended first, if given.

    With k and v, row i of a sequence is written in place to row ``cache_seqlens + i`` of the cache, and the
    attention sees ``cache_seqlens`` plus the new rows. Nothing is read on the host, so a call can be captured
    in a CUDA graph, and its replay obeys the lengths, pages and indices of that time. A new row for which the
    cache has no room, or whose page or batch entry does not exist, is dropped, and a sequence never has more
    rows than its room. Where two sequences write to one row, it is unspecified which of their values stay.
    Every other row of the cache keeps its bits.

    Args:
        q: (batch, seqlen_q, heads, head_dim), or (total_q, heads, head_dim) with cu_seqlens_q; float16 or
            bfloat16, on a CUDA device.
        k_cache: (batch_cache, seqlen_cache, heads_kv, head_dim), or (pages, page_size, heads_kv, head_dim)
            with page_table; dtype and device of q. To append, its last stride must be 1.
        v_cache: like k_cache, with head_dim_v columns.
        k: (batch, seqlen_new, heads_kv, head_dim), or (total_new, heads_kv, head_dim) with cu_seqlens_k_new:
            rows to append. None: the cache is read and not changed.
        v: like k, with head_dim_v columns.
        qv: no kernel yet; None.
        rotary_cos: (positions, rotary_dim / 2), dtype of q: cosines for the rotation of the first rotary_dim
            columns of k and q. Row i of k is at position ``cache_seqlens + i``; so is row i of q where the
            call is causal or has a window or chunks, else every row of q is at ``cache_seqlens``. A row at a
            position outside of the tables is not rotated.
        rotary_sin: the sines.
        cache_seqlens: the number of first rows of each sequence that count, the padding among them: one
            number for all, or (batch,) int32 on the device of q. Required with k. None: as many as the cache,
            or the page_table, has room for.
        cache_batch_idx: (batch,) int32: the entry of k_cache of each sequence; in a cache without pages.
        cache_leftpad: (batch,) int32: first rows of each sequence that do not count. With page_table or
            cache_batch_idx, a table of all rows of the sequences is made in each call.
        page_table: (batch, pages of the longest sequence) int32, any page_size.
        cu_seqlens_q: (batch + 1,) int32: first row of each sequence of a packed q, and the end of the last.
        cu_seqlens_k_new: the same for k and v; without effect where they are None.
        max_seqlen_q: as in ``flash_attn_varlen_func``; required with cu_seqlens_q.
        rotary_seqlens: (batch,) int32: takes the place of cache_seqlens in positions; without effect where
            rotary_cos is None.
        q_descale: as in ``flash_attn_func``: without effect on 16-bit tensors.
        k_descale: likewise.
        v_descale: likewise.
        softmax_scale: ``head_dim ** -0.5`` when None.
        causal: aligned to the bottom right of each sequence's own lengths.
        window_size: (left, right), -1 for all.
        attention_chunk: 0 for none.
        softcap: 0 for none.
        rotary_interleaved: columns 2i and 2i + 1 are rotated together; or else i and i + rotary_dim / 2.
        scheduler_metadata: without effect: the kernels need no plan.
        num_splits: a hint, without effect on the result, as in ``flash_attn_func``.
        pack_gqa: a hint, without effect on the result.
        sm_margin: multiprocessors to leave free.
        return_softmax_lse: return the LSE as well.
        learnable_sink: (heads,): as in ``flash_attn_func``.
        s_aux: another name of learnable_sink.
        out: the tensor to write to and return, as in ``flash_attn_func``.

    Returns:
        ``out``, like q with head_dim_v columns; or ``(out, lse, out_accum, lse_accum)`` with ``lse`` (batch,
        heads, seqlen_q) or (heads, total_q) float32, and two empty tensors in place of partial results.

    Raises:
        TypeError, ValueError, RuntimeError: as ``flash_attn_varlen_func`` does, whose k, v and seqused_k are
            k_cache, v_cache and cache_seqlens here, and as ``flash_attn_append_kvcache`` does.
        NotImplementedError: the argument has no kernel yet; or k, v or q requires a gradient where rows are
            appended.
    """
    # Without stars, which would take half a microsecond.
    options = resolve_options(
        window_size, learnable_sink, s_aux, softcap, attention_chunk, sm_margin,
        num_splits, pack_gqa, False, qv, q_descale, k_descale, v_descale,
    )  # fmt: skip
    for name, array in (("cu_seqlens_k_new", cu_seqlens_k_new), ("rotary_seqlens", rotary_seqlens)):
        if array is not None:
            require_tensor(name, array)
    check_cache_ranks(k_cache, v_cache, page_table)
    batch = batch_of("q", q, "cu_seqlens_q", cu_seqlens_q)
    longest_q = 0 if cu_seqlens_q is None else _longest_q(max_seqlen_q, q)
    cache = Cache(k_cache, v_cache, cache_batch_idx, cache_leftpad, page_table)
    seqlens: Tensor | None
    if k is not None or v is not None or rotary_cos is not None or rotary_sin is not None:
        q, seqlens = _append_beside(
            q, cache, k, v, cache_seqlens, batch,
            (cu_seqlens_k_new, rotary_cos, rotary_sin, rotary_seqlens, rotary_interleaved),
            cu_seqlens_q, advances(causal, options),
        )  # fmt: skip
    elif cache_seqlens is None and page_table is None and cache_batch_idx is None and cache_leftpad is None:
        seqlens = None
    else:
        seqlens = resolve_lengths(cache_seqlens, cache, batch)
    keys = place_keys(cache, seqlens, batch)
    operator: Any = forward_masked
    lengths: tuple[Any, ...] = ()
    if cu_seqlens_q is not None or keys.lengths.seqused_k is not None:
        operator = forward_general
        lengths = tuple(keys.lengths._replace(cu_seqlens_q=cu_seqlens_q, max_seqlen_q=longest_q))
    written, lse = forward(
        operator, q, keys.k, keys.v, softmax_scale, causal, lengths, options, out, deterministic=False
    )
    if not return_softmax_lse:
        return written
    return written, lse, lse.new_empty(0), lse.new_empty(0)


def _longest_q(given: Any, q: Tensor) -> Any:
    if given is None:
        raise ValueError("max_seqlen_q must be given with cu_seqlens_q; it is None")
    return given if type(given) is int else read_longest("max_seqlen_q", given, q)


def _append_beside(  # noqa: PLR0917  by position: keywords cost host time
    q: Tensor,
    cache: Cache,
    k: Any,
    v: Any,
    cache_seqlens: Any,
    batch: int,
    new: tuple[Any, ...],
    cu_seqlens_q: Any,
    q_advances: bool,
) -> tuple[Tensor, Tensor]:
    """Append k and v; return q, rotated with them, and the lengths. ``new``: what describes the new rows."""
    if k is None or v is None:
        name = "k" if k is None else "v"
        raise ValueError(f"{name} must be given with k, v, rotary_cos or rotary_sin; it is None")
    rotates = new[1] is not None or new[2] is not None
    seqlens = _lengths_before(cache_seqlens, cache, batch, k, new)
    arguments = (cache.k_cache, cache.v_cache, k, v, seqlens, cache.cache_batch_idx, cache.page_table, *new)
    _refuse_gradients(arguments[:4], q if rotates else None)
    if not rotates:
        return q, _run(_append, arguments)
    seqlens, rotated = _run(_append_rotating, (*arguments, q, cu_seqlens_q, q_advances))
    return rotated, seqlens


def flash_attn_append_kvcache(  # noqa: PLR0917  in the order of flash_attn_with_kvcache
    k_cache: Tensor,
    v_cache: Tensor,
    k: Tensor,
    v: Tensor,
    cache_seqlens: int | Tensor,
    cache_batch_idx: Tensor | None = None,
    page_table: Tensor | None = None,
    cu_seqlens_k_new: Tensor | None = None,
    rotary_cos: Tensor | None = None,
    rotary_sin: Tensor | None = None,
    rotary_seqlens: Tensor | None = None,
    rotary_interleaved: bool = True,
) -> Tensor:
    """Append rows to a cache in place, as ``flash_attn_with_kvcache`` does before it attends.

    Args:
        k_cache: as in ``flash_attn_with_kvcache``.
        v_cache: likewise.
        k: (batch, seqlen_new, heads_kv, head_dim), or (total_new, heads_kv, head_dim) with cu_seqlens_k_new.
        v: like k, with head_dim_v columns.
        cache_seqlens: the number of rows of each sequence before: one number for all, or (batch,) int32.
        cache_batch_idx: as in ``flash_attn_with_kvcache``.
        page_table: likewise.
        cu_seqlens_k_new: likewise.
        rotary_cos: likewise; k alone is rotated.
        rotary_sin: likewise.
        rotary_seqlens: likewise.
        rotary_interleaved: likewise.

    Returns:
        (batch,) int32, the number of rows of each sequence afterwards, never more than its room.

    Raises:
        TypeError: an argument has a wrong type or dtype.
        ValueError: a shape, device, stride or value does not fit, or the host knows that the cache has no
            room for the new rows.
        NotImplementedError: k or v requires a gradient, or there is no kernel for FP8 yet.
        RuntimeError: there is no CUDA driver, it is too old, or this build has no kernel for the GPU.
    """
    check_cache_ranks(k_cache, v_cache, page_table)
    batch = batch_of("k", k, "cu_seqlens_k_new", cu_seqlens_k_new)
    cache = Cache(k_cache, v_cache, cache_batch_idx, None, page_table)
    new = (cu_seqlens_k_new, rotary_cos, rotary_sin, rotary_seqlens, rotary_interleaved)
    seqlens = _lengths_before(cache_seqlens, cache, batch, k, new)
    arguments = (k_cache, v_cache, k, v, seqlens, cache_batch_idx, page_table, *new)
    _refuse_gradients(arguments[:4])
    after: Tensor = _run(_append, arguments)
    return after


def _lengths_before(given: Any, cache: Cache, batch: int, k: Tensor, new: tuple[Any, ...]) -> Tensor:
    """Return the lengths before rows are appended; refuse a number for all that leaves no room for them."""
    if given is None:
        raise ValueError("cache_seqlens must be given with k, whose rows follow those; it is None")
    if isinstance(given, Tensor):
        return resolve_lengths(given, cache, batch)
    cu_seqlens_k_new, rotary_cos, _, rotary_seqlens, _ = new
    appended = k.shape[1] if cu_seqlens_k_new is None and k.ndim == 4 else 0
    seqlens = resolve_lengths(given, cache, batch, appended)
    if rotary_cos is not None and rotary_seqlens is None and given + appended > rotary_cos.shape[0]:
        raise ValueError(
            f"rotary_cos must have at least {given + appended} positions, for {given} rows and {appended} "
            f"new ones; its shape is {tuple(rotary_cos.shape)}"
        )
    return seqlens


def _refuse_gradients(tensors: tuple[Any, ...], q: Tensor | None = None) -> None:
    if not torch.is_grad_enabled():
        return
    for name, tensor in zip(("k_cache", "v_cache", "k", "v", "q"), (*tensors, q), strict=True):
        if isinstance(tensor, Tensor) and tensor.requires_grad:
            raise NotImplementedError(
                f"{name} requires a gradient, and appending to a cache has no backward pass: call it under "
                "torch.no_grad()"
            )


def _run(operator: Any, arguments: tuple[Any, ...]) -> Any:
    try:
        return operator(*arguments)
    except REFUSALS as error:
        raise explain(error, check_append, *arguments) from None


def get_scheduler_metadata(  # noqa: PLR0917  callers pass these by position
    batch_size: int,  # noqa: ARG001  a plan does not depend on it, nor on what follows
    max_seqlen_q: int | Tensor,  # noqa: ARG001
    max_seqlen_k: int | Tensor,  # noqa: ARG001
    num_heads_q: int,  # noqa: ARG001
    num_heads_kv: int,  # noqa: ARG001
    headdim: int,  # noqa: ARG001
    cache_seqlens: Tensor,
    qkv_dtype: torch.dtype = torch.bfloat16,  # noqa: ARG001
    headdim_v: int | None = None,  # noqa: ARG001
    cu_seqlens_q: Tensor | None = None,  # noqa: ARG001
    cu_seqlens_k_new: Tensor | None = None,  # noqa: ARG001
    cache_leftpad: Tensor | None = None,  # noqa: ARG001
    page_size: int | None = None,  # noqa: ARG001
    max_seqlen_k_new: int = 0,  # noqa: ARG001
    causal: bool = False,  # noqa: ARG001
    window_size: Sequence[int | Tensor] = (-1, -1),  # noqa: ARG001
    attention_chunk: int = 0,  # noqa: ARG001
    has_softcap: bool = False,  # noqa: ARG001
    num_splits: int = 0,  # noqa: ARG001
    pack_gqa: bool | None = None,  # noqa: ARG001
    sm_margin: int = 0,  # noqa: ARG001
) -> Tensor:
    """Plan a call of ``flash_attn_with_kvcache``: the kernels schedule themselves, and a plan is empty.

    Args:
        batch_size: without effect, as every argument but cache_seqlens.
        max_seqlen_q: likewise; a tensor is not read from its device.
        max_seqlen_k: likewise.
        num_heads_q: likewise.
        num_heads_kv: likewise.
        headdim: likewise.
        cache_seqlens: (batch,) int32: the plan is on its device.
        qkv_dtype: without effect, as those above and below.
        headdim_v: likewise.
        cu_seqlens_q: likewise.
        cu_seqlens_k_new: likewise.
        cache_leftpad: likewise.
        page_size: likewise.
        max_seqlen_k_new: likewise.
        causal: likewise.
        window_size: likewise.
        attention_chunk: likewise.
        has_softcap: likewise.
        num_splits: likewise.
        pack_gqa: likewise.
        sm_margin: likewise.

    Returns:
        An empty int32 tensor on the device of cache_seqlens, for ``scheduler_metadata``.

    Raises:
        TypeError: cache_seqlens is no tensor.
    """
    require_tensor("cache_seqlens", cache_seqlens)
    return cache_seqlens.new_empty(0, dtype=torch.int32)
