"""Truth of a backward case, and the judgement of its gradients."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from flash_attn3.checks.data.sequences import padded_rows, unused_rows
from flash_attn3.checks.truth.gradients import Gradients, Loss, gradients
from flash_attn3.checks.truth.reference import attention_fp64, scoring_of
from flash_attn3.checks.truth.rule import ROUNDED_ONCE, Judgement

if TYPE_CHECKING:
    from flash_attn3.checks.cases.backward import BackwardCase
    from flash_attn3.checks.data.gradients import BackwardInputs

# Extra room with a softcap, whose derivative is a difference of nearly equal numbers.
_SOFTCAP_ROOM = 3e-4
_NAMES = ("dq", "dk", "dv")


@dataclass(frozen=True)
class BackwardTruth:
    """Float64 gradients, and plain PyTorch's in the dtype of the case."""

    reference: Gradients
    same_precision: Gradients


def find_backward_truth(case: BackwardCase, inputs: BackwardInputs) -> BackwardTruth:
    """Compute the truth of a case."""
    q, k, v = inputs.attention.padded
    scoring = scoring_of(case.attention, inputs.attention)
    forward = attention_fp64(q, k, v, scoring)
    loss = Loss(inputs.padded_dout, inputs.padded_dlse)
    reference, same_precision = (
        gradients((q, k, v), loss, scoring, forward, dtype) for dtype in (torch.float64, q.dtype)
    )
    return BackwardTruth(reference, same_precision)


def judge_backward(
    case: BackwardCase, inputs: BackwardInputs, truth: BackwardTruth, result: tuple[Tensor, ...]
) -> Judgement:
    """Judge (dq, dk, dv) and dsink: shapes, dtypes, values, and zeros in rows that no sequence uses.

    The rule is that of ``rule``: an error at most twice that of plain PyTorch in the same dtype, plus the
    noise of rounding, and an RMSE at most 1.1 times the larger of plain PyTorch's and of rounding every
    element once.
    """
    judgement = Judgement()
    call, sequences = inputs.attention, inputs.attention.sequences
    for name, gradient, tensor in zip(_NAMES, result, (call.q, call.k, call.v), strict=False):
        if gradient.shape != tensor.shape or gradient.dtype != tensor.dtype:
            judgement.require(
                False,
                f"{name} is {gradient.dtype} {tuple(gradient.shape)}; "
                f"it should be {tensor.dtype} {tuple(tensor.shape)}",
            )
            continue
        found = gradient
        if sequences is not None:
            rows, used = (
                (sequences.rows_q, sequences.used_q) if name == "dq" else (sequences.rows_k, sequences.used_k)
            )
            rest = unused_rows(gradient, rows, used)
            judgement.require(not bool(rest.any()), f"{name} is not 0 in rows that no sequence uses")
            found = padded_rows(gradient, rows, used)
        exact, plain = (getattr(gradients, name) for gradients in (truth.reference, truth.same_precision))
        _judge_gradient(judgement, name, found, _Wanted(exact, plain, bool(case.attention.softcap)))
    if truth.reference.dsink is not None and truth.same_precision.dsink is not None:
        error = (result[3].double() - truth.reference.dsink).abs().max()
        plain = (truth.same_precision.dsink - truth.reference.dsink).abs().max()
        size = truth.reference.dsink.abs().max()
        judgement.hold("dsink_error", float(error), float(2 * plain + 1e-3 * size + 1e-4))
    return judgement


def judge_values(found: tuple[Tensor, ...], exact: Gradients, plain: Gradients) -> Judgement:
    """Judge the values alone of (dq, dk, dv) of a call without a softcap, by the same rule."""
    judgement = Judgement()
    for name, gradient in zip(_NAMES, found, strict=True):
        _judge_gradient(
            judgement, name, gradient, _Wanted(getattr(exact, name), getattr(plain, name), is_capped=False)
        )
    return judgement


@dataclass(frozen=True)
class _Wanted:
    """The exact gradient, that of plain PyTorch in the dtype of the inputs, and whether scores are capped."""

    exact: Tensor
    plain: Tensor
    is_capped: bool


def _judge_gradient(judgement: Judgement, name: str, found: Tensor, wanted: _Wanted) -> None:
    if found.numel() == 0:
        return
    if not bool(found.isfinite().all()):
        judgement.require(False, f"{name} has {int((~found.isfinite()).sum())} elements that are not finite")
        return
    truth = wanted.exact
    rounded = truth.to(found.dtype)
    noise = ((rounded + 0.3 - 0.3) - rounded).abs().max()
    ours, theirs = found.double() - truth, wanted.plain.double() - truth
    room = _SOFTCAP_ROOM if wanted.is_capped else 0.0
    judgement.hold(
        f"{name}_max_error", float(ours.abs().max()), float(2 * theirs.abs().max() + 2 * noise + room)
    )
    count = math.sqrt(found.numel())
    once = ROUNDED_ONCE * torch.finfo(found.dtype).eps * float(truth.norm()) / count
    few = 4 / math.sqrt(found.shape[:-1].numel()) * float((rounded.double() - truth).norm()) / count
    judgement.hold(
        f"{name}_rmse", float(ours.norm()) / count, 1.1 * max(float(theirs.norm()) / count, once) + few + 1e-6
    )
