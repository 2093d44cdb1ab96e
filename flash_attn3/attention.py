"""The public attention functions for batches of sequences of one length."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from flash_attn3._check.arguments import resolve_options
from flash_attn3._check.qkvpacked import unpack
from flash_attn3._forward import forward, forward_masked, forward_packed, needs_gradient
from flash_attn3._ops.fwd import FWD, FWD_QKVPACKED
from flash_attn3._ops.operator import REFUSALS

if TYPE_CHECKING:
    from collections.abc import Sequence

_forward = FWD.call
_forward_qkvpacked = FWD_QKVPACKED.call


def flash_attn_func(  # noqa: PLR0917  callers pass these by position
    q: Tensor,
    k: Tensor,
    v: Tensor,
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
    learnable_sink: Tensor | None = None,
    s_aux: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Exact attention: ``softmax(softmax_scale * q @ k.T + mask) @ v`` for each batch item and head.

    head_dim and head_dim_v can be up to 256, and head_dim_v up to 512 where head_dim is at most 64. There are
    kernels for 64, 96, 128, 192 and 256, and for 192 with head_dim_v 128; other sizes use the next larger
    kernel, and a head_dim that is no multiple of 8 is first copied into padded rows.
    Computed as in "FlashAttention-3: Fast and Accurate Attention with Asynchrony and Low-precision" (Shah et
    al., 2024), with the online softmax of Milakov and Gimelshein (2018). Grouped-query attention: query head
    ``i // (heads // heads_kv)``. A query row without a visible key, and every row when seqlen_k is 0, gives
    output 0 and LSE -inf (with a sink: the sink).

    Args:
        q: (batch, seqlen_q, heads, head_dim), float16 or bfloat16, on a CUDA device. Any strides; a layout
            whose last stride is not 1, or that is not aligned to 16 bytes, is copied first.
        k: (batch, seqlen_k, heads_kv, head_dim), dtype and device of q; heads_kv divides heads.
        v: (batch, seqlen_k, heads_kv, head_dim_v), dtype and device of q.
        softmax_scale: factor of ``q @ k.T``; ``head_dim ** -0.5`` when None.
        causal: mask key j for query i unless ``j <= i + seqlen_k - seqlen_q`` (aligned to the bottom right).
        qv: no kernel yet; None.
        q_descale: factor of an FP8 q, for which there is no kernel yet; without effect on 16-bit tensors.
        k_descale: the same of k.
        v_descale: the same of v.
        window_size: (left, right), keys visible before and after the query's own position ``i + seqlen_k -
            seqlen_q``, -1 for all; ``causal`` makes right 0. Elements may be 0-dim CPU integer tensors.
        attention_chunk: size of chunks of positions, ``[n * chunk, (n + 1) * chunk)``: mask keys outside the
            chunk of the query, in addition to the other masks; 0 for none.
        softcap: bound the logits: ``softcap * tanh(logit / softcap)``, before the mask; 0 for none.
        num_splits: a hint, without effect on the result: into how many parts the keys of a sequence are
            divided follows from their number alone.
        pack_gqa: a hint, without effect on the result.
        deterministic: gradients have the same bits every time; without it, those of q may differ in the last
            bits. Forward always has the same bits.
        sm_margin: multiprocessors to leave free for other work on the device.
        return_attn_probs: return the LSE as well; the probabilities themselves are never formed.
        learnable_sink: (heads,), any floating dtype: for each head the logit of one more key, whose value
            is 0. It joins the softmax and the LSE; scale and softcap do not apply to it.
        s_aux: another name of learnable_sink.
        out: (batch, seqlen_q, heads, head_dim_v), dtype and device of q: the tensor to write to and return.
            Its last stride must be 1, its other strides and its address multiples of 16 bytes; they may be
            any where head_dim_v is no multiple of 8.

    Returns:
        ``out``, (batch, seqlen_q, heads, head_dim_v), dtype of q, contiguous when head_dim_v is a multiple of
        8 and else with rows padded to one; or ``(out, lse)`` with ``lse`` (batch, heads, seqlen_q) float32,
        the natural logarithm of each row's sum of exponentials.

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
    result: tuple[Tensor, Tensor]
    if options or out is not None:
        result = forward(forward_masked, q, k, v, softmax_scale, causal, (), options, out, deterministic)
        return result if return_attn_probs else result[0]
    # Most calls come here; `forward` gives the same results in more time.
    try:
        if torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad):
            result = FWD.with_gradient(q, k, v, softmax_scale, causal, deterministic)
        else:
            result = _forward(q, k, v, softmax_scale, causal)
    except REFUSALS as error:
        raise FWD.explain(error, q, k, v, softmax_scale, causal) from None
    return result if return_attn_probs else result[0]


def flash_attn_qkvpacked_func(  # noqa: PLR0917  callers pass these by position
    qkv: Tensor,
    softmax_scale: float | None = None,
    causal: bool = False,
    q_descale: Tensor | None = None,
    k_descale: Tensor | None = None,
    v_descale: Tensor | None = None,
    window_size: Sequence[int | Tensor] = (-1, -1),
    attention_chunk: int = 0,
    softcap: float = 0.0,
    deterministic: bool = False,
    num_heads_q: int | None = None,
    sm_margin: int = 0,
    return_attn_probs: bool = False,
    learnable_sink: Tensor | None = None,
    s_aux: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Exact attention on q, k and v in one tensor, which is not copied; otherwise as ``flash_attn_func``.

    Args:
        qkv: (batch, seqlen, 3, heads, head_dim); or, with num_heads_q, (batch, seqlen, num_heads_q + 2 *
            heads_kv, head_dim): the heads of q, then those of k, then those of v.
        softmax_scale: as in ``flash_attn_func``.
        causal: as in ``flash_attn_func``.
        q_descale: as in ``flash_attn_func``.
        k_descale: as in ``flash_attn_func``.
        v_descale: as in ``flash_attn_func``.
        window_size: as in ``flash_attn_func``.
        attention_chunk: as in ``flash_attn_func``.
        softcap: as in ``flash_attn_func``.
        deterministic: as in ``flash_attn_func``.
        num_heads_q: heads of q in a qkv of 4 dimensions.
        sm_margin: as in ``flash_attn_func``.
        return_attn_probs: as in ``flash_attn_func``.
        learnable_sink: as in ``flash_attn_func``.
        s_aux: as in ``flash_attn_func``.
        out: as in ``flash_attn_func``.

    Returns:
        As ``flash_attn_func``.

    Raises:
        TypeError, ValueError, NotImplementedError, RuntimeError: as ``flash_attn_func`` does.
    """
    options = resolve_options(
        window_size, learnable_sink, s_aux, softcap, attention_chunk, sm_margin,
        1, None, deterministic, None, q_descale, k_descale, v_descale,
    )  # fmt: skip
    heads_q = 0 if num_heads_q is None else num_heads_q
    result: tuple[Tensor, Tensor]
    try:
        if (
            not (options or out is not None or num_heads_q == 0)  # a given 0 is an error
            and not (torch.is_grad_enabled() and qkv.requires_grad)
        ):
            result = _forward_qkvpacked(qkv, softmax_scale, causal, heads_q)
            return result if return_attn_probs else result[0]
    except REFUSALS as error:
        raise FWD_QKVPACKED.explain(error, qkv, softmax_scale, causal, heads_q) from None
    q, k, v = unpack(qkv, num_heads_q)
    if out is None and needs_gradient(qkv, options):
        result = forward_packed(qkv, num_heads_q, softmax_scale, causal, options, deterministic)
        return result if return_attn_probs else result[0]
    return flash_attn_func(
        *(q, k, v, softmax_scale, causal, None, q_descale, k_descale, v_descale),
        *(window_size, attention_chunk, softcap, 1, None, deterministic, sm_margin),
        *(return_attn_probs, learnable_sink, s_aux, out),
    )
