"""The public attention functions, called as a case requires."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor

from flash_attn3 import flash_attn_func, flash_attn_varlen_func

if TYPE_CHECKING:
    from flash_attn3.checks.cases.case import AttentionCase
    from flash_attn3.checks.data.inputs import AttentionInputs

_VARLEN = {"cu_seqlens_q", "cu_seqlens_k", "seqused_q", "seqused_k", "page_table"}
# (q, k, v, softmax_scale, causal, **options) -> (out, lse). The options are those of the public functions; a
# function under test needs only those that its calls use.
Forward = Callable[..., tuple[Tensor, Tensor]]


def public_forward(
    q: Tensor, k: Tensor, v: Tensor, softmax_scale: float | None, causal: bool, **options: Any
) -> tuple[Tensor, Tensor]:
    """Call ``flash_attn3.flash_attn_func``, or ``flash_attn_varlen_func`` for its options, as a user does."""
    options |= {"softmax_scale": softmax_scale, "causal": causal, "return_attn_probs": True}
    if not _VARLEN.isdisjoint(options):
        required = {name: options.pop(name, None) for name in ("cu_seqlens_q", "cu_seqlens_k")}
        longest = {name: options.pop(name, 0) for name in ("max_seqlen_q", "max_seqlen_k")}
        out, lse = flash_attn_varlen_func(q, k, v, **required, **longest, **options)
    else:
        out, lse = flash_attn_func(q, k, v, **options)
    return out, lse


def call(
    forward: Forward, case: AttentionCase, inputs: AttentionInputs, **options: Any
) -> tuple[Tensor, Tensor]:
    """Call ``forward`` on the inputs of a case, with its options and ``options``; return (out, lse)."""
    options = {**case.options(), **inputs.options, **options}
    return forward(inputs.q, inputs.k, inputs.v, case.softmax_scale, case.causal, **options)
