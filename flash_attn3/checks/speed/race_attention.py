"""Attention forward in a race: random inputs, the implementations, the judgement of an output."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from flash_attn3.checks.data.call import public_forward
from flash_attn3.checks.data.inputs import DTYPES
from flash_attn3.checks.truth.reference import (
    Attention,
    Rows,
    Scoring,
    attention_fp64,
    attention_same_precision,
)
from flash_attn3.checks.truth.rule import judge, lse_tolerance

if TYPE_CHECKING:
    from flash_attn3.checks.speed.race_settings import AttentionSetting

_CHECKED_ROWS = 64


@dataclass(frozen=True)
class RaceInputs:
    """(batch, seqlen, heads, head_dim), or (total, heads, head_dim) with the starts of the sequences."""

    q: Tensor
    k: Tensor
    v: Tensor
    cu_seqlens: Tensor | None


def random_inputs(setting: AttentionSetting, device: torch.device) -> RaceInputs:
    """Return fresh standard normal inputs of a setting."""
    leading = (sum(setting.lengths),) if setting.varlen else (setting.batch, setting.seqlen)
    heads_kv, dtype = setting.heads // setting.group, DTYPES[setting.dtype]
    starts = torch.tensor([0, *accumulate(setting.lengths)], dtype=torch.int32, device=device)
    return RaceInputs(
        torch.randn((*leading, setting.heads, setting.head_dim), device=device, dtype=dtype),
        torch.randn((*leading, heads_kv, setting.head_dim), device=device, dtype=dtype),
        torch.randn((*leading, heads_kv, setting.head_dim_v or setting.head_dim), device=device, dtype=dtype),
        starts if setting.varlen else None,
    )


def new_out(inputs: RaceInputs) -> Tensor:
    """Return a NaN-filled tensor of the size of ``out``."""
    return inputs.q.new_full((*inputs.q.shape[:-1], inputs.v.shape[-1]), torch.nan)


def call_ours(setting: AttentionSetting, inputs: RaceInputs) -> Tensor:
    """Call the public function and return ``out``."""
    options: dict[str, Any] = {}
    if setting.window is not None:
        options["window_size"] = setting.window_size
    if inputs.cu_seqlens is not None:
        cu_seqlens = inputs.cu_seqlens
        options |= {"cu_seqlens_q": cu_seqlens, "cu_seqlens_k": cu_seqlens}
        options |= {"max_seqlen_q": setting.seqlen, "max_seqlen_k": setting.seqlen}
    return public_forward(inputs.q, inputs.k, inputs.v, None, setting.causal, **options)[0]


def _sdpa(backend: SDPBackend, setting: AttentionSetting, inputs: RaceInputs) -> Tensor:
    with sdpa_kernel(backend):
        q, k, v = (tensor.transpose(1, 2) for tensor in (inputs.q, inputs.k, inputs.v))
        grouped = setting.group > 1
        return scaled_dot_product_attention(q, k, v, is_causal=setting.causal, enable_gqa=grouped)


def call_cudnn(setting: AttentionSetting, inputs: RaceInputs) -> Tensor:
    """Call cuDNN through torch; raise RuntimeError for a setting that torch cannot pass to it."""
    if setting.window is not None:
        raise RuntimeError("torch gives cuDNN no sliding window")
    if inputs.cu_seqlens is None:
        return _sdpa(SDPBackend.CUDNN_ATTENTION, setting, inputs)
    lengths = (inputs.cu_seqlens, inputs.cu_seqlens, setting.seqlen, setting.seqlen)
    q, k, v = inputs.q, inputs.k, inputs.v
    result = torch.ops.aten._cudnn_attention_forward(  # noqa: SLF001  torch calls it for nested tensors
        q, k, v, None, *lengths, False, 0.0, setting.causal, False
    )
    out: Tensor = result[0]
    return out


def call_flash(setting: AttentionSetting, inputs: RaceInputs) -> Tensor:
    """Call torch's own flash backend."""
    if inputs.cu_seqlens is None and setting.window is None:
        return _sdpa(SDPBackend.FLASH_ATTENTION, setting, inputs)
    left, right = (None if limit < 0 else limit for limit in setting.window_size)
    lengths = (inputs.cu_seqlens, inputs.cu_seqlens, setting.seqlen, setting.seqlen)
    q, k, v = inputs.q, inputs.k, inputs.v
    result = torch.ops.aten._flash_attention_forward(  # noqa: SLF001  torch's way to windows and packed sequences
        q, k, v, *lengths, 0.0, setting.causal, False, window_size_left=left, window_size_right=right
    )
    out: Tensor = result[0]
    return out


def judge_rows(setting: AttentionSetting, inputs: RaceInputs, out: Tensor) -> tuple[str, ...]:
    """Judge the first, a middle and the last rows of a timed output of full size against float64."""
    # A few sequences are enough, because float64 is slow. With varlen the first sequence is the longest.
    few = slice(0, setting.seqlen) if setting.varlen else slice(-2, None)
    parts = [tensor[few] for tensor in (inputs.q, inputs.k, inputs.v, out)]
    q, k, v, ours = (part[None] if setting.varlen else part for part in parts)
    scoring = Scoring(setting.head_dim**-0.5, setting.causal, window=setting.window_size)
    failures: list[str] = []
    for start in (0, setting.seqlen // 2 - 7, setting.seqlen - _CHECKED_ROWS):
        rows = Rows(start, start + _CHECKED_ROWS)
        reference = attention_fp64(q, k, v, scoring, rows=rows)
        plain = attention_same_precision(q, k, v, scoring, rows=rows)
        here = slice(rows.start, rows.stop)
        tolerance = lse_tolerance(q[:, here], k, reference.lse, scoring)
        # The timed call returns no LSE, which the cases judge; the reference's is passed instead.
        result = Attention(ours[:, here], reference.lse.float())
        judgement = judge(result, reference=reference, same_precision=plain, lse_tolerance=tolerance)
        failures += (
            f"rows {rows.start} to {rows.stop} of the timed output: {text}" for text in judgement.failures
        )
    return tuple(failures)
