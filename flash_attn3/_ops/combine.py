"""The operators that combine partial results of attention."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from flash_attn3._check.partials import check_partials, read_out_dtype
from flash_attn3._ops.autograd import ForwardOnly
from flash_attn3._ops.operator import Operator


def _describe_lse(lse_partial: Tensor) -> Tensor:
    *leading, seqlen, heads = lse_partial.shape[1:]
    return lse_partial.new_empty((*leading, heads, seqlen)).transpose(-1, -2)


def _check(out_partial: Tensor, lse_partial: Tensor, out_dtype: int) -> None:
    check_partials(out_partial, lse_partial, None, read_out_dtype(out_dtype))


def _describe(out_partial: Tensor, lse_partial: Tensor, out_dtype: int) -> tuple[Tensor, Tensor]:
    out = out_partial.new_empty(out_partial.shape[1:], dtype=read_out_dtype(out_dtype))
    return out, _describe_lse(lse_partial)


class CombineForwardOnly(ForwardOnly):
    """``flash_attn3::combine``."""

    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, Tensor]:
        """Return (out, lse) for the arguments of the operator."""
        out, lse = torch.ops.flash_attn3.combine.default(*arguments)
        return out, lse


COMBINE = Operator("combine", kernel="combine", check=_check, describe=_describe, autograd=CombineForwardOnly)


def _check_into(out_partial: Tensor, lse_partial: Tensor, out: Tensor) -> None:
    check_partials(out_partial, lse_partial, out, None)


def _describe_into(_out_partial: Tensor, lse_partial: Tensor, _out: Tensor) -> Tensor:
    return _describe_lse(lse_partial)


COMBINE_INTO = Operator("combine_into", kernel="combine", check=_check_into, describe=_describe_into)
