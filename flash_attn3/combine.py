"""The public call that joins attention over parts of the keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from flash_attn3._check.partials import OUT_DTYPES, check_partials
from flash_attn3._ops.combine import COMBINE, COMBINE_INTO
from flash_attn3._ops.operator import REFUSALS, explain

if TYPE_CHECKING:
    from torch import Tensor

_combine = COMBINE.call
_combine_into = COMBINE_INTO.call


def flash_attn_combine(
    out_partial: Tensor,
    lse_partial: Tensor,
    out: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """Join attention over parts of the keys into attention over all of them.

    With ``lse = log(sum_i exp(lse_partial[i]))`` over the splits i, the result is ``sum_i w_i *
    out_partial[i]`` with weights ``w_i = exp(lse_partial[i] - lse)``: the rescaling of partial softmaxes of
    Milakov and Gimelshein (2018). A split whose LSE is -inf saw no key: it has no weight, and what its row of
    out_partial holds does not matter, NaN included. A row that no split saw gives output 0 and LSE -inf.

    Args:
        out_partial: (splits, batch, seqlen, heads, head_dim_v) or, of packed sequences, (splits, total,
            heads, head_dim_v), float32, on a CUDA device; 1 to 256 splits, head_dim_v up to 512. Any strides.
        lse_partial: (splits, batch, seqlen, heads) or (splits, total, heads), float32, natural logarithm. Any
            strides; it is read where it lies when its positions are adjacent (``stride(-2) == 1``), as in a
            transposed view of an LSE, and else copied first.
        out: (batch, seqlen, heads, head_dim_v) or (total, heads, head_dim_v), float32, float16 or bfloat16:
            the tensor to write to and return. Its last stride must be 1.
        out_dtype: dtype of the output: float32 (also when None), float16 or bfloat16. With out, its dtype or
            None.

    Returns:
        ``(out, lse)``: out as above, contiguous when it is not given; ``lse`` (batch, seqlen, heads) or
        (total, heads) float32, a transposed view of the contiguous (batch, heads, seqlen) or (heads, total).

    Raises:
        TypeError: an argument has a wrong type or dtype.
        ValueError: a shape, device or stride does not fit, or out and out_dtype differ.
        NotImplementedError: head_dim_v is above 512; also raised by the backward pass.
        RuntimeError: there is no CUDA driver, it is too old, or this build has no kernel for the GPU.
    """
    try:
        number = OUT_DTYPES.get(torch.float32 if out_dtype is None else out_dtype)
        needs_grad = torch.is_grad_enabled() and (out_partial.requires_grad or lse_partial.requires_grad)
        if out is None and number is not None:
            call = COMBINE.with_gradient if needs_grad else _combine
            combined, lse = call(out_partial, lse_partial, number)
            return combined, lse
        if out is not None and not needs_grad and (out_dtype is None or out_dtype is out.dtype):
            return out, _combine_into(out_partial, lse_partial, out)
    except REFUSALS as error:
        raise explain(error, check_partials, out_partial, lse_partial, out, out_dtype) from None
    check_partials(out_partial, lse_partial, out, out_dtype)
    raise ValueError("out must be None when out_partial or lse_partial requires a gradient")
