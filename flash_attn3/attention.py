"""The public attention call."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from flash_attn3._arguments import check_options, check_scalars, check_tensors, resolve_window
from flash_attn3._autograd import ForwardOnly

if TYPE_CHECKING:
    from collections.abc import Sequence

_forward = torch.ops.flash_attn3.fwd.default


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
) -> Tensor | tuple[Tensor, Tensor]:
    """Exact attention: ``softmax(softmax_scale * q @ k.T + mask) @ v`` for each batch item and head.

    Computed as in "FlashAttention-3: Fast and Accurate Attention with Asynchrony and Low-precision" (Shah et
    al., 2024), with the online softmax of Milakov and Gimelshein (2018). Grouped-query attention: query head
    ``i`` uses key/value head ``i // (heads // heads_kv)``. A query row that the mask leaves no key, and every
    row when seqlen_k is 0, gives output 0 and LSE -inf.

    Args:
        q: (batch, seqlen_q, heads, head_dim), float16 or bfloat16, on a CUDA device. Any strides; the fastest
            path needs a unit last one and 16-byte alignment, other layouts are copied first.
        k: (batch, seqlen_k, heads_kv, head_dim), dtype and device of q; heads_kv divides heads.
        v: (batch, seqlen_k, heads_kv, head_dim_v), dtype and device of q.
        softmax_scale: the factor before the softmax; ``head_dim ** -0.5`` when None.
        causal: mask key j for query i unless ``j <= i + seqlen_k - seqlen_q`` (aligned to the bottom right).
        qv: no kernel yet; None.
        q_descale: no kernel yet; None.
        k_descale: no kernel yet; None.
        v_descale: no kernel yet; None.
        window_size: (left, right), keys visible before and after the query's own position, -1 for all. Only
            windows that mask nothing, or what ``causal`` masks, have kernels. Elements may be 0-dim CPU
            integer tensors.
        attention_chunk: no kernel yet; 0.
        softcap: no kernel yet; 0.
        num_splits: 1, or 0 to let the library choose (it chooses 1); more has no kernel yet.
        pack_gqa: a hint, without effect on the result.
        deterministic: accepted; forward is deterministic always.
        sm_margin: multiprocessors to leave free for other work on the device.
        return_attn_probs: return the LSE as well; the probabilities themselves are never formed.

    Returns:
        ``out``, (batch, seqlen_q, heads, head_dim_v) contiguous, dtype of q; or ``(out, lse)`` with ``lse``
        (batch, heads, seqlen_q) float32, the natural logarithm of each row's sum of exponentials.

    Raises:
        TypeError: an argument has a wrong type or dtype.
        ValueError: a shape, device or value does not fit.
        NotImplementedError: the argument is valid and has no kernel yet; also raised by the backward pass.
        RuntimeError: there is no CUDA driver, it is too old, or this build has no kernel for the GPU.
    """
    if not (
        num_splits in (0, 1)
        and (qv is None and q_descale is None and k_descale is None and v_descale is None)
        and (attention_chunk == 0 and softcap == 0.0 and sm_margin == 0)
        and (pack_gqa is None and deterministic is False)
    ):
        check_options(
            attention_chunk=attention_chunk,
            softcap=softcap,
            num_splits=num_splits,
            pack_gqa=pack_gqa,
            deterministic=deterministic,
            sm_margin=sm_margin,
            absent={"qv": qv, "q_descale": q_descale, "k_descale": k_descale, "v_descale": v_descale},
        )
    if window_size != (-1, -1):
        check_tensors(q, k, v)
        causal = resolve_window(window_size, causal, q.shape[1], k.shape[1])
    try:
        scale = q.shape[-1] ** -0.5 if softmax_scale is None else softmax_scale
        if torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad):
            # torch leaves Function.apply without annotations
            out, lse = ForwardOnly.apply(q, k, v, scale, causal, sm_margin)  # type: ignore[no-untyped-call]
        else:
            out, lse = _forward(q, k, v, scale, causal, sm_margin)
    except (RuntimeError, AttributeError, TypeError, IndexError, ZeroDivisionError) as error:
        raise _explain(error, (q, k, v), softmax_scale, causal) from None
    return (out, lse) if return_attn_probs else out


def _explain(
    error: Exception, tensors: tuple[Tensor, Tensor, Tensor], softmax_scale: float | None, causal: bool
) -> Exception:
    """Return the error that names the wrong argument, or ``error`` itself when no argument is wrong.

    The operator checks everything in C++ and can raise only RuntimeError. The slower checks that know the
    right kind of error run here, after the fact, because an eager call has no microseconds to spend on them.
    """
    try:
        check_scalars(0.0 if softmax_scale is None else softmax_scale, causal)
        check_tensors(*tensors)
    except (TypeError, ValueError, NotImplementedError) as clearer:
        return clearer
    return error
