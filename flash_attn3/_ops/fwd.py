"""The operators of attention forward: they differ in their arguments, each of which costs host time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from flash_attn3._check.arguments import Lengths, Options, check_index, check_scalars
from flash_attn3._check.qkvpacked import unpack
from flash_attn3._check.tensors import check_tensors
from flash_attn3._ops.bwd import AttentionGradient, PackedGradient
from flash_attn3._ops.operator import Operator

_ROW_ELEMENTS = 8  # an output row starts at a multiple of 8 elements, 16 bytes, as TMA stores need
_PACKED = 4  # of `Lengths`, those that fwd_varlen takes


def _check(  # noqa: PLR0917  the order of the operators
    q: Tensor,
    k: Tensor,
    v: Tensor,
    softmax_scale: float | None,
    causal: bool,
    lengths: Lengths,
    options: Options,
    out: Tensor | None = None,
) -> None:
    check_scalars(softmax_scale, causal)
    check_tensors(q, k, v, lengths=lengths, sink=options.sink, out=out)
    check_index("sm_margin", options.sm_margin, 0)


def _describe_out(q: Tensor, v: Tensor) -> Tensor:
    head_dim_v = v.shape[-1]
    if head_dim_v % _ROW_ELEMENTS == 0:
        return q.new_empty((*q.shape[:-1], head_dim_v))
    padded = -(-head_dim_v // _ROW_ELEMENTS) * _ROW_ELEMENTS
    return q.new_empty((*q.shape[:-1], padded))[..., :head_dim_v]


def _describe_lse(q: Tensor) -> Tensor:
    if q.ndim == 3:
        return q.new_empty((q.shape[1], q.shape[0]), dtype=torch.float32)
    return q.new_empty((q.shape[0], q.shape[2], q.shape[1]), dtype=torch.float32)


def _describe(q: Tensor, _k: Tensor, v: Tensor, *_arguments: Any) -> tuple[Tensor, Tensor]:
    return _describe_out(q, v), _describe_lse(q)


def _check_plain(  # noqa: PLR0917  the order of the operator
    q: Tensor, k: Tensor, v: Tensor, softmax_scale: float | None, causal: bool, sm_margin: int = 0
) -> None:
    _check(q, k, v, softmax_scale, causal, Lengths(), Options(sm_margin=sm_margin))


class PlainGradient(AttentionGradient):
    """``flash_attn3::fwd``."""

    @staticmethod
    def forward(
        q: Tensor, k: Tensor, v: Tensor, softmax_scale: float | None, causal: bool, _deterministic: bool
    ) -> tuple[Tensor, Tensor]:
        """Return (out, lse)."""
        out, lse = torch.ops.flash_attn3.fwd.default(q, k, v, softmax_scale, causal)
        return out, lse


FWD = Operator("fwd", kernel="fwd", check=_check_plain, describe=_describe, autograd=PlainGradient)


def _check_qkvpacked(qkv: Tensor, softmax_scale: float | None, causal: bool, heads_q: int) -> None:
    _check_plain(*unpack(qkv, heads_q or None), softmax_scale, causal)


def _describe_qkvpacked(
    qkv: Tensor, _scale: float | None, _causal: bool, heads_q: int
) -> tuple[Tensor, Tensor]:
    return _describe(*unpack(qkv, heads_q or None))


FWD_QKVPACKED = Operator(
    "fwd_qkvpacked",
    kernel="fwd",
    check=_check_qkvpacked,
    describe=_describe_qkvpacked,
    autograd=PackedGradient,
)


def _check_masked(
    q: Tensor, k: Tensor, v: Tensor, softmax_scale: float | None, causal: bool, *options: Any
) -> None:
    _check(q, k, v, softmax_scale, causal, Lengths(), Options(*options))


FWD_MASKED = Operator("fwd_masked", kernel="fwd", check=_check_masked, describe=_describe)


def _check_varlen(
    q: Tensor, k: Tensor, v: Tensor, softmax_scale: float | None, causal: bool, *arguments: Any
) -> None:
    lengths, options = Lengths(*arguments[:_PACKED]), Options(*arguments[_PACKED:])
    _check(q, k, v, softmax_scale, causal, lengths, options)


FWD_VARLEN = Operator("fwd_varlen", kernel="fwd", check=_check_varlen, describe=_describe)


def _check_general(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    softmax_scale: float | None,
    causal: bool,
    *arguments: Any,
    out: Tensor | None = None,
) -> None:
    count = len(Lengths._fields)
    lengths, options = Lengths(*arguments[:count]), Options(*arguments[count:])
    _check(q, k, v, softmax_scale, causal, lengths, options, out)


class GeneralGradient(AttentionGradient):
    """``flash_attn3::fwd_general``."""

    @staticmethod
    def forward(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        softmax_scale: float | None,
        causal: bool,
        _deterministic: bool,
        *arguments: Any,
    ) -> tuple[Tensor, Tensor]:
        """Return (out, lse)."""
        out, lse = torch.ops.flash_attn3.fwd_general.default(q, k, v, softmax_scale, causal, *arguments)
        return out, lse


FWD_GENERAL = Operator(
    "fwd_general", kernel="fwd", check=_check_general, describe=_describe, autograd=GeneralGradient
)


def _check_into(out: Tensor, *arguments: Any) -> None:
    _check_general(*arguments, out=out)


def _describe_into(_out: Tensor, q: Tensor, *_arguments: Any) -> Tensor:
    return _describe_lse(q)


FWD_INTO = Operator("fwd_into", kernel="fwd", check=_check_into, describe=_describe_into)
