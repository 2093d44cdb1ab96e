"""When is an attention result right? The error rule, and what it is held to.

The tolerance is not a constant: it is what plain PyTorch in the same precision gets wrong on the same inputs.

- largest error: ``max|out - ref| <= 2 * max|pt - ref| + 2 * max|(ref + 0.3 - 0.3) - ref|``, the last term
  being the rounding noise of the dtype (3 * with a softcap, whose tanh rounds once more);
- RMSE: at most 1.1 times plain PyTorch's;
- cosine distance: at most ``4 * eps ** 2``;
- LSE: each row within the float32 rounding of the sums that make it, -inf in exactly the right rows;
- infinities and NaNs: exactly where the reference has them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from flash_attn3.checks.reference import Attention, Scoring

# Sixteen float32 roundings: those of the dot product, the scale, the maximum, exp2, the sum and the log.
_LSE_ROUNDINGS = 2.0**-20


@dataclass
class Verdict:
    """Figures and broken rules, gathered rule by rule."""

    figures: dict[str, float | None] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def hold(self, rule: str, value: float, limit: float) -> None:
        """Record a figure and its limit; a value above the limit, or not a number, breaks the rule."""
        self.figures[rule] = value
        self.figures[f"{rule}_limit"] = limit
        if not value <= limit:
            self.failures.append(f"{rule} is {value:.3e}; the limit is {limit:.3e}")

    def require(self, condition: bool, failure: str) -> None:
        """Record a failure unless the condition holds."""
        if not condition:
            self.failures.append(failure)


def judge(
    result: Attention,
    *,
    reference: Attention,
    same_precision: Tensor,
    lse_tolerance: Tensor,
    softcap: float = 0.0,
) -> Verdict:
    """Judge a result against the float64 reference.

    Args:
        result: what the kernel returned.
        reference: float64 truth for the same inputs.
        same_precision: plain PyTorch's ``out`` in the dtype of ``result.out``.
        lse_tolerance: (batch, heads, seqlen_q) absolute tolerance of each LSE row, from ``lse_tolerance``.
        softcap: of the call.
    """
    verdict = Verdict()
    out, dtype = result.out, result.out.dtype
    if result.out.shape != reference.out.shape or result.lse.shape != reference.lse.shape:
        verdict.require(
            False,
            f"shapes are out {tuple(result.out.shape)}, lse {tuple(result.lse.shape)}; "
            f"they should be {tuple(reference.out.shape)}, {tuple(reference.lse.shape)}",
        )
        return verdict
    verdict.require(
        result.lse.dtype == torch.float32, f"lse is {result.lse.dtype}; it should be torch.float32"
    )
    _judge_lse(verdict, result.lse.double(), reference.lse, lse_tolerance)
    rounded = reference.out.to(dtype)
    usable = _same_specials(verdict, "out", out, rounded)
    if not bool(usable.any()):
        return verdict
    truth = reference.out[usable]
    ours, plain = out[usable].double() - truth, same_precision[usable].double() - truth
    plain = plain[plain.isfinite()]
    noise = rounded[usable].double() - truth
    atol = 2 * _largest(((rounded[usable] + 0.3 - 0.3) - rounded[usable]).double())
    verdict.hold("max_error", _largest(ours), (3 if softcap else 2) * _largest(plain) + atol)
    # Rounding P is an error that the columns of a row share, so the RMSE of few rows is itself a noisy
    # estimate.
    few_rows = 4 / math.sqrt(max(1, out.numel() // out.shape[-1]))
    verdict.hold("rmse", _rms(ours), 1.1 * _rms(plain) + few_rows * _rms(noise) + _tiny(truth))
    verdict.hold(
        "cosine_distance", _cosine_distance(out[usable].double(), truth), 4 * torch.finfo(dtype).eps ** 2
    )
    return verdict


def lse_tolerance(q: Tensor, k: Tensor, reference_lse: Tensor, scoring: Scoring) -> Tensor:
    """Return the absolute tolerance of each LSE row, (batch, heads, seqlen_q).

    LSE = scale * m + ln(sum). The dot product in m is rounded in proportion to |q| |k|, the sum of seqlen_k
    terms in proportion to the square root of their number, the result in proportion to itself, and a capped
    score in proportion to the cap.
    """
    seqlen_k, group = k.shape[1], q.shape[2] // k.shape[2]
    row = q.double().norm(dim=-1).transpose(1, 2)
    key = (
        k.double().norm(dim=-1).nan_to_num(posinf=0.0).amax(1)
        if seqlen_k
        else k.new_zeros(k.shape[0], k.shape[2])
    )
    dot = abs(scoring.softmax_scale) * row * key.double().repeat_interleave(group, dim=1)[..., None]
    magnitude = 1 + dot + scoring.softcap + reference_lse.abs().nan_to_num(posinf=0.0)
    tolerance: Tensor = _LSE_ROUNDINGS * (magnitude + math.sqrt(seqlen_k) / 8)
    return tolerance


def _judge_lse(verdict: Verdict, lse: Tensor, truth: Tensor, tolerance: Tensor) -> None:
    usable = _same_specials(verdict, "lse", lse, truth)
    if bool(usable.any()):
        excess = (lse[usable] - truth[usable]).abs() / tolerance[usable]
        verdict.figures["lse_error"] = _largest(lse[usable] - truth[usable])
        verdict.hold("lse_error_over_tolerance", _largest(excess), 1.0)


def _same_specials(verdict: Verdict, name: str, got: Tensor, truth: Tensor) -> Tensor:
    """Require NaN, inf and -inf at the same positions; return where both are finite."""
    for label, test in (("nan", torch.isnan), ("inf", torch.isposinf), ("-inf", torch.isneginf)):
        wrong = test(got) != test(truth)
        count = int(wrong.sum())
        if count:
            first = tuple(int(index) for index in wrong.nonzero()[0])
            found, wanted = int(test(got).sum()), int(test(truth).sum())
            verdict.failures.append(
                f"{name} has {found} {label} values where the reference has {wanted}; "
                f"{count} positions differ, first {first}"
            )
    return got.isfinite() & truth.isfinite()


def _largest(values: Tensor) -> float:
    return float(values.abs().max()) if values.numel() else 0.0


def _rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt()) if values.numel() else 0.0


def _tiny(truth: Tensor) -> float:
    """Return float32 rounding of the values: what remains where plain PyTorch happens to be exact."""
    return 2.0**-22 * _rms(truth)


def _cosine_distance(left: Tensor, right: Tensor) -> float:
    total = float(left.square().sum() + right.square().sum())
    return 1 - 2 * float((left * right).sum()) / total if total else 0.0
