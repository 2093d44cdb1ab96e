"""Runs correctness cases: inputs, the call, the float64 reference, the verdict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from flash_attn3 import flash_attn_func, flash_attn_varlen_func
from flash_attn3.checks.data.inputs import Inputs, make_inputs
from flash_attn3.checks.outcome import Outcome
from flash_attn3.checks.truth.reference import Attention, Scoring, attention_fp64, attention_same_precision
from flash_attn3.checks.truth.rule import Verdict, judge, lse_tolerance

if TYPE_CHECKING:
    from flash_attn3.checks.cases.case import Case

_VARLEN = {"cu_seqlens_q", "cu_seqlens_k", "seqused_q", "seqused_k", "page_table"}
# (q, k, v, softmax_scale, causal, **options) -> (out, lse); the options are those of the public functions,
# and only those that a call has need be known.
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


@dataclass(frozen=True)
class Truth:
    """What the result of a case is judged against."""

    reference: Attention
    same_precision: Tensor
    lse_tolerance: Tensor


class Trial:
    """One case on one device; its inputs and its truth are made once, for every kernel that is tried."""

    def __init__(self, case: Case, device: torch.device) -> None:
        self.case = case
        self._device = device

    @cached_property
    def inputs(self) -> Inputs:
        """What each call is given."""
        return make_inputs(self.case, self._device)

    @cached_property
    def truth(self) -> Truth:
        """What each result is held to."""
        return find_truth(self.case, self.inputs)

    def run(self, forward: Forward) -> Outcome:
        """Call ``forward`` and judge its result. An exception from the call is a failure of the case."""
        case = self.case
        try:
            out, lse = call(forward, case, self.inputs)
        except Exception as error:  # noqa: BLE001  whatever it raises, the case failed and the next one runs
            return Outcome(
                "correctness", case.name, case.params(), {}, (f"raised {type(error).__name__}: {error}",)
            )
        verdict = judge_case(case, self.inputs, self.truth, out, lse)
        dtype = self.inputs.q.dtype
        verdict.require(out.dtype == dtype, f"out is {out.dtype}; it should be {dtype}")
        # Rows that TMA cannot write are padded to those it can.
        aligned = (case.head_dim_v or case.head_dim) % 8 == 0
        verdict.require(
            lse.is_contiguous() and (out.is_contiguous() or not aligned), "out or lse is not contiguous"
        )
        return Outcome("correctness", case.name, case.params(), verdict.figures, tuple(verdict.failures))


def run_case(case: Case, forward: Forward, device: torch.device) -> Outcome:
    """Run one case once and judge it."""
    return Trial(case, device).run(forward)


def call(forward: Forward, case: Case, inputs: Inputs, **options: Any) -> tuple[Tensor, Tensor]:
    """Call ``forward`` as the case says, with more options if any."""
    options = {**case.options(), **inputs.options, **options}
    return forward(inputs.q, inputs.k, inputs.v, case.softmax_scale, case.causal, **options)


def find_truth(case: Case, inputs: Inputs) -> Truth:
    """Compute what the result of a case is judged against."""
    q, k, v = inputs.padded
    scoring = Scoring(
        case.scale,
        case.causal,
        window=case.window,
        attention_chunk=case.attention_chunk,
        softcap=case.softcap,
        sink=inputs.sink,
        lengths=inputs.lengths,
    )
    reference = attention_fp64(q, k, v, scoring)
    return Truth(
        reference,
        same_precision=attention_same_precision(q, k, v, scoring),
        lse_tolerance=lse_tolerance(q, k, reference.lse, scoring),
    )


def judge_case(case: Case, inputs: Inputs, truth: Truth, out: Tensor, lse: Tensor) -> Verdict:
    """Judge what a call returned for a case."""
    wanted = (*inputs.q.shape[:-1], inputs.v.shape[-1])
    wanted_lse = (*wanted[:-3], wanted[-2], wanted[-3])
    if inputs.laid is not None and out.shape == wanted and lse.shape == wanted_lse:
        out, lse = inputs.laid.padded(out, lse)
    return judge(
        Attention(out, lse),
        reference=truth.reference,
        same_precision=truth.same_precision,
        lse_tolerance=truth.lse_tolerance,
        softcap=case.softcap,
    )
