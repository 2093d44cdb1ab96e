"""Truth of an attention forward case, and the judgement of a result against it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from flash_attn3.checks.data.call import call
from flash_attn3.checks.data.inputs import make_inputs
from flash_attn3.checks.truth.reference import Attention, attention_fp64, attention_same_precision, scoring_of
from flash_attn3.checks.truth.rule import Judgement, judge, lse_tolerance

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from flash_attn3.checks.cases.case import AttentionCase
    from flash_attn3.checks.data.call import Forward
    from flash_attn3.checks.data.inputs import AttentionInputs


@dataclass(frozen=True)
class ForwardTruth:
    """Float64 reference, plain PyTorch's ``out`` in the dtype of the case, tolerance of each LSE row."""

    reference: Attention
    same_precision: Tensor
    lse_tolerance: Tensor


def find_truth(case: AttentionCase, inputs: AttentionInputs) -> ForwardTruth:
    """Compute the truth of a case."""
    q, k, v = inputs.padded
    scoring = scoring_of(case, inputs)
    reference = attention_fp64(q, k, v, scoring)
    return ForwardTruth(
        reference,
        same_precision=attention_same_precision(q, k, v, scoring),
        lse_tolerance=lse_tolerance(q, k, reference.lse, scoring),
    )


def judge_case(
    case: AttentionCase, inputs: AttentionInputs, truth: ForwardTruth, result: tuple[Tensor, ...]
) -> Judgement:
    """Judge (out, lse) of a call: values, shapes, dtypes and contiguity."""
    out, lse = result
    found = Attention(out, lse)
    wanted = (*inputs.q.shape[:-1], inputs.v.shape[-1])
    wanted_lse = (*wanted[:-3], wanted[-2], wanted[-3])
    if inputs.sequences is not None and out.shape == wanted and lse.shape == wanted_lse:
        found = Attention(*inputs.sequences.padded(out, lse))
    judgement = judge(
        found,
        reference=truth.reference,
        same_precision=truth.same_precision,
        lse_tolerance=truth.lse_tolerance,
        softcap=case.softcap,
    )
    dtype = inputs.q.dtype
    judgement.require(out.dtype == dtype, f"out is {out.dtype}; it should be {dtype}")
    # Other rows are padded to multiples of 16 bytes, which TMA can write.
    aligned = inputs.v.shape[-1] % 8 == 0
    judgement.require(
        lse.is_contiguous() and (out.is_contiguous() or not aligned), "out or lse is not contiguous"
    )
    return judgement


def find_failures(case: AttentionCase, forward: Forward, device: torch.device) -> list[str]:
    """Run a case on a device and return a sentence for each broken rule. An exception is not caught."""
    inputs = make_inputs(case, device)
    result = call(forward, case, inputs)
    return judge_case(case, inputs, find_truth(case, inputs), result).failures
