"""What torch needs to know of the operators beside running them: shapes without data, and no vmap."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from flash_attn3._check.arguments import NO_LENGTHS, check_scalars
from flash_attn3._check.partials import OUT_DTYPES, check_partials
from flash_attn3._check.qkvpacked import unpack
from flash_attn3._check.tensors import Extras, check_tensors

_ROW_ELEMENTS = 8  # rows of this many elements, 16 bytes, are what the copy engine can write


def register() -> None:
    """Register fake kernels and the refusal of vmap with the operators that are already loaded."""
    for name, shapes in (
        ("fwd", forward_shapes),
        ("fwd_qkvpacked", qkvpacked_shapes),
        ("fwd_masked", masked_shapes),
        ("fwd_varlen", varlen_shapes),
        ("fwd_general", general_shapes),
        ("fwd_into", into_shapes),
        ("combine", combine_shapes),
        ("combine_into", combine_into_shapes),
    ):
        torch.library.register_fake(f"flash_attn3::{name}", shapes)
        torch.library.register_vmap(f"flash_attn3::{name}", _refuse_vmap)


def forward_shapes(  # noqa: PLR0917  the operator's order
    q: Tensor, k: Tensor, v: Tensor, softmax_scale: float | None, causal: bool, sm_margin: int = 0
) -> tuple[Tensor, Tensor]:
    """Return tensors as attention forward returns them, without data.

    Raises:
        TypeError, ValueError, NotImplementedError: as ``flash_attn3.flash_attn_func`` does.
    """
    check_tensors(q, k, v)
    _check_scalars(softmax_scale, causal, sm_margin)
    return _new_out(q, v), _new_lse(q)


def qkvpacked_shapes(
    qkv: Tensor, softmax_scale: float | None, causal: bool, heads_q: int
) -> tuple[Tensor, Tensor]:
    """Return tensors as attention on q, k and v in one tensor returns them, without data; heads_q 0 for None.

    Raises:
        TypeError, ValueError, NotImplementedError: as ``flash_attn3.flash_attn_qkvpacked_func`` does.
    """
    return forward_shapes(*unpack(qkv, heads_q or None), softmax_scale, causal)


def masked_shapes(
    q: Tensor, k: Tensor, v: Tensor, softmax_scale: float | None, causal: bool, *options: Any
) -> tuple[Tensor, Tensor]:
    """Return ``general_shapes`` of a dense call.

    Raises:
        TypeError, ValueError, NotImplementedError: as ``flash_attn3.flash_attn_func`` does.
    """
    return general_shapes(q, k, v, softmax_scale, causal, *NO_LENGTHS, *options)


def varlen_shapes(  # noqa: PLR0917  the operator's order
    q: Tensor,
    k: Tensor,
    v: Tensor,
    softmax_scale: float | None,
    causal: bool,
    cu_seqlens_q: Tensor | None,
    cu_seqlens_k: Tensor | None,
    max_seqlen_q: int | torch.SymInt,
    max_seqlen_k: int | torch.SymInt,
    *options: Any,
) -> tuple[Tensor, Tensor]:
    """Return ``general_shapes`` of a call with packed sequences.

    Raises:
        TypeError, ValueError, NotImplementedError: as ``flash_attn3.flash_attn_varlen_func`` does.
    """
    lengths = (cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, None, None, None)
    return general_shapes(q, k, v, softmax_scale, causal, *lengths, *options)


def general_shapes(  # noqa: PLR0917  the operator's order
    q: Tensor,
    k: Tensor,
    v: Tensor,
    softmax_scale: float | None,
    causal: bool,
    cu_seqlens_q: Tensor | None = None,
    cu_seqlens_k: Tensor | None = None,
    _max_seqlen_q: int | torch.SymInt = 0,
    _max_seqlen_k: int | torch.SymInt = 0,
    seqused_q: Tensor | None = None,
    seqused_k: Tensor | None = None,
    page_table: Tensor | None = None,
    _window_left: int = -1,
    _window_right: int = -1,
    sink: Tensor | None = None,
    _softcap: float = 0.0,
    _attention_chunk: int = 0,
    sm_margin: int = 0,
    *,
    out: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return tensors as attention with every option returns them, without data.

    Raises:
        TypeError, ValueError, NotImplementedError: as ``flash_attn3.flash_attn_varlen_func`` does.
    """
    check_tensors(q, k, v, Extras(cu_seqlens_q, cu_seqlens_k, seqused_q, seqused_k, page_table, sink, out))
    _check_scalars(softmax_scale, causal, sm_margin)
    return _new_out(q, v), _new_lse(q)


def into_shapes(out: Tensor, *arguments: Any) -> Tensor:
    """Return the LSE of ``general_shapes``, for whose arguments, behind ``out``, this is called.

    Raises:
        TypeError, ValueError, NotImplementedError: as ``flash_attn3.flash_attn_varlen_func`` does.
    """
    return general_shapes(*arguments, out=out)[1]


def combine_shapes(out_partial: Tensor, lse_partial: Tensor, out_dtype: int) -> tuple[Tensor, Tensor]:
    """Return tensors as combining partial results returns them, without data; out_dtype is a `Dtype`.

    Raises:
        TypeError, ValueError, NotImplementedError: as ``flash_attn3.flash_attn_combine`` does.
    """
    dtype = next((dtype for dtype, number in OUT_DTYPES.items() if number == out_dtype), None)
    if dtype is None:
        raise ValueError(f"out_dtype must be one of {[*OUT_DTYPES.values()]}; it is {out_dtype}")
    check_partials(out_partial, lse_partial, None, dtype)
    return out_partial.new_empty(out_partial.shape[1:], dtype=dtype), _new_combined_lse(lse_partial)


def combine_into_shapes(out_partial: Tensor, lse_partial: Tensor, out: Tensor) -> Tensor:
    """Return the LSE of ``combine_shapes``.

    Raises:
        TypeError, ValueError, NotImplementedError: as ``flash_attn3.flash_attn_combine`` does.
    """
    check_partials(out_partial, lse_partial, out, None)
    return _new_combined_lse(lse_partial)


def _new_combined_lse(lse_partial: Tensor) -> Tensor:
    *leading, seqlen, heads = lse_partial.shape[1:]
    return lse_partial.new_empty((*leading, heads, seqlen)).transpose(-1, -2)


def _check_scalars(softmax_scale: float | None, causal: bool, sm_margin: int) -> None:
    check_scalars(softmax_scale, causal)
    if sm_margin < 0:
        raise ValueError(f"sm_margin must be 0 or more; it is {sm_margin}")


def _new_out(q: Tensor, v: Tensor) -> Tensor:
    head_dim_v = v.shape[-1]
    if head_dim_v % _ROW_ELEMENTS == 0:
        return q.new_empty((*q.shape[:-1], head_dim_v))
    padded = -(-head_dim_v // _ROW_ELEMENTS) * _ROW_ELEMENTS
    return q.new_empty((*q.shape[:-1], padded))[..., :head_dim_v]


def _new_lse(q: Tensor) -> Tensor:
    if q.ndim == 3:
        return q.new_empty((q.shape[1], q.shape[0]), dtype=torch.float32)
    return q.new_empty((q.shape[0], q.shape[2], q.shape[1]), dtype=torch.float32)


def _refuse_vmap(_info: object, _in_dims: object, *_arguments: Any) -> None:
    raise NotImplementedError(
        "flash_attn3 does not support torch.vmap: use the batch dimension of its functions instead"
    )
