"""Runs correctness cases: inputs, the call, the float64 reference, the verdict."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from flash_attn3 import flash_attn_func
from flash_attn3.checks.inputs import make_inputs
from flash_attn3.checks.outcome import Outcome
from flash_attn3.checks.reference import Attention, attention_fp64, attention_same_precision
from flash_attn3.checks.rule import judge, lse_tolerance

if TYPE_CHECKING:
    from flash_attn3.checks.cases import Case

# (q, k, v, softmax_scale, causal) -> (out, lse)
Forward = Callable[[Tensor, Tensor, Tensor, float | None, bool], tuple[Tensor, Tensor]]


def public_forward(
    q: Tensor, k: Tensor, v: Tensor, softmax_scale: float | None, causal: bool
) -> tuple[Tensor, Tensor]:
    """Call ``flash_attn3.flash_attn_func`` as a user does."""
    out, lse = flash_attn_func(q, k, v, softmax_scale=softmax_scale, causal=causal, return_attn_probs=True)
    return out, lse


def run_case(case: Case, forward: Forward, device: torch.device) -> Outcome:
    """Run one case and judge it. An exception from the call is a failure of the case."""
    inputs = make_inputs(case, device)
    try:
        out, lse = forward(inputs.q, inputs.k, inputs.v, case.softmax_scale, case.causal)
    except Exception as error:  # noqa: BLE001  whatever it raises, the case failed and the next one runs
        return Outcome(
            "correctness", case.name, case.params(), {}, (f"raised {type(error).__name__}: {error}",)
        )
    q, k, v = inputs.q, inputs.k, inputs.v
    reference = attention_fp64(q, k, v, softmax_scale=case.scale, causal=case.causal)
    verdict = judge(
        Attention(out, lse),
        reference=reference,
        same_precision=attention_same_precision(q, k, v, softmax_scale=case.scale, causal=case.causal),
        lse_tolerance=lse_tolerance(q, k, reference.lse, case.scale),
    )
    verdict.require(out.dtype == q.dtype, f"out is {out.dtype}; it should be {q.dtype}")
    verdict.require(out.is_contiguous() and lse.is_contiguous(), "out or lse is not contiguous")
    return Outcome("correctness", case.name, case.params(), verdict.figures, tuple(verdict.failures))
