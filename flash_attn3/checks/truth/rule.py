"""The error rule of attention results.

The tolerance is not a constant: it follows from the error of plain PyTorch in the same dtype on the same
inputs.

- largest error: ``max|out - ref| <= 2 * max|pt - ref| + 2 * max|(ref + 0.3 - 0.3) - ref|``, the last term
  being the rounding noise of the dtype (3 * with a softcap, whose tanh rounds once more);
- RMSE: at most 1.1 times the larger of plain PyTorch's and the RMSE of rounding every element once;
- cosine distance: at most ``4 * eps ** 2``;
- LSE: each row within the float32 rounding of its sums, -inf in exactly the same rows;
- infinities and NaNs: exactly those of the reference.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from flash_attn3.checks.truth.reference import Attention, Scoring

# Sixteen float32 roundings: those of the dot product, the scale, the maximum, exp2, the sum and the log.
_LSE_ROUNDINGS = 2.0**-20
_COLUMNS_FOR_RMSE = 8
# Relative RMSE of rounding to nearest, in eps: uniform within half a unit, 1 / sqrt(12), with mantissas m
# spread evenly on a logarithmic scale, sqrt(mean of 1 / m ** 2) = sqrt(3 / (8 ln 2)).
ROUNDED_ONCE = math.sqrt(3 / (8 * math.log(2)) / 12)


@dataclass
class Judgement:
    """Result of judging one check: its figures, and one sentence for each broken rule."""

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
) -> Judgement:
    """Judge a result against the float64 reference.

    Args:
        result: what the kernel returned.
        reference: float64 truth for the same inputs.
        same_precision: plain PyTorch's ``out`` in the dtype of ``result.out``.
        lse_tolerance: (batch, heads, seqlen_q) absolute tolerance of each LSE row, from ``lse_tolerance``.
        softcap: of the call.
    """
    judgement = Judgement()
    out = result.out
    if out.shape != reference.out.shape or result.lse.shape != reference.lse.shape:
        judgement.require(
            False,
            f"shapes are out {tuple(out.shape)}, lse {tuple(result.lse.shape)}; "
            f"they should be {tuple(reference.out.shape)}, {tuple(reference.lse.shape)}",
        )
        return judgement
    judgement.require(
        result.lse.dtype == torch.float32, f"lse is {result.lse.dtype}; it should be torch.float32"
    )
    if out.numel() == 0:
        return judgement
    lse, rounded = result.lse.double(), reference.out.to(out.dtype)
    found = _fetch(
        _measure_lse(lse, reference.lse, lse_tolerance)
        | _measure_out(out, reference.out, rounded, same_precision)
    )
    if found["lse_specials"]:
        judgement.failures += _name_specials("lse", lse, reference.lse)
    if found["lse_usable"]:
        judgement.figures["lse_error"] = found["lse_error"]
        judgement.hold("lse_error_over_tolerance", found["lse_excess"], 1.0)
    if found["out_specials"]:
        judgement.failures += _name_specials("out", out, rounded)
    if found["out_usable"]:
        _hold_out(judgement, found, result, softcap)
    return judgement


def _measure_lse(lse: Tensor, truth: Tensor, tolerance: Tensor) -> dict[str, Tensor]:
    usable, specials = _compare_specials(lse, truth)
    unusable = ~usable
    error = (lse - truth).masked_fill_(unusable, 0.0)
    return {
        "lse_usable": usable.sum(),
        "lse_specials": specials,
        "lse_error": _largest(error),
        "lse_excess": _largest((error / tolerance).masked_fill_(unusable, 0.0)),
    }


def _measure_out(out: Tensor, truth: Tensor, rounded: Tensor, same_precision: Tensor) -> dict[str, Tensor]:
    """Measure the elements that are finite in the result and in the truth."""
    usable, specials = _compare_specials(out, rounded)
    unusable = ~usable
    plain_usable = usable & same_precision.isfinite()
    ours = (out.double() - truth).masked_fill_(unusable, 0.0)
    plain = (same_precision.double() - truth).masked_fill_(~plain_usable, 0.0)
    noise = (rounded.double() - truth).masked_fill_(unusable, 0.0)
    shifted = ((rounded + 0.3 - 0.3) - rounded).masked_fill_(unusable, 0.0)
    norm = torch.linalg.vector_norm
    return {
        "out_usable": usable.sum(),
        "plain_usable": plain_usable.sum(),
        "out_specials": specials,
        "ours_largest": _largest(ours),
        "plain_largest": _largest(plain),
        "shifted_largest": _largest(shifted),
        "ours_norm": norm(ours),
        "plain_norm": norm(plain),
        "noise_norm": norm(noise),
        "out_norm": norm(out.double().masked_fill_(unusable, 0.0)),
        "truth_norm": norm(truth.masked_fill(unusable, 0.0)),
    }


def _fetch(measured: dict[str, Tensor]) -> dict[str, float]:
    """Return every figure as a number, with one synchronisation: there are thousands of cases."""
    values: list[float] = torch.stack([value.double() for value in measured.values()]).tolist()
    return dict(zip(measured, values, strict=True))


def _hold_out(judgement: Judgement, found: dict[str, float], result: Attention, softcap: float) -> None:
    eps = torch.finfo(result.out.dtype).eps
    usable, plain_usable = math.sqrt(found["out_usable"]), math.sqrt(max(1, found["plain_usable"]))
    atol = 2 * found["shifted_largest"]
    judgement.hold("max_error", found["ours_largest"], (3 if softcap else 2) * found["plain_largest"] + atol)
    # The columns of a row share the rounding errors of P, so the RMSE of few rows is a noisy estimate.
    few_rows = 4 / math.sqrt(result.lse.numel())
    # Where one key outweighs all others, plain PyTorch is exact: its P is 1, and the output is a row of V. A
    # kernel whose reference is below the row maximum rounds there as elsewhere.
    once = ROUNDED_ONCE * eps * found["truth_norm"] / usable
    # Over so few columns the two roundings of P, before and after its division, do not average out.
    if result.out.shape[-1] >= _COLUMNS_FOR_RMSE:
        judgement.hold(
            "rmse",
            found["ours_norm"] / usable,
            1.1 * max(found["plain_norm"] / plain_usable, once) + few_rows * found["noise_norm"] / usable,
        )
    # 1 - 2 x.y / (x.x + y.y), which is |x - y|^2 / (|x|^2 + |y|^2).
    total = found["out_norm"] ** 2 + found["truth_norm"] ** 2
    judgement.hold("cosine_distance", found["ours_norm"] ** 2 / total if total else 0.0, 4 * eps**2)


def lse_tolerance(q: Tensor, k: Tensor, reference_lse: Tensor, scoring: Scoring) -> Tensor:
    """Return the absolute tolerance of each LSE row, (batch, heads, seqlen_q).

    LSE = scale * m + ln(sum). The rounding error of the dot product in m is proportional to |q| |k|, of the
    sum to the square root of seqlen_k, of the result to itself, and of a capped score to the cap.
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


def _compare_specials(got: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Return where both are finite, and the number of positions with different NaNs or infinities."""
    usable = got.isfinite() & truth.isfinite()
    same = usable | (got == truth) | (got.isnan() & truth.isnan())
    return usable, (~same).sum()


def _name_specials(name: str, got: Tensor, truth: Tensor) -> list[str]:
    """Return a sentence for each of NaN, inf and -inf that is not at the same positions."""
    failures = []
    for label, test in (("nan", torch.isnan), ("inf", torch.isposinf), ("-inf", torch.isneginf)):
        wrong = test(got) != test(truth)
        count = int(wrong.sum())
        if count:
            first = tuple(int(index) for index in wrong.nonzero()[0])
            found, wanted = int(test(got).sum()), int(test(truth).sum())
            failures.append(
                f"{name} has {found} {label} values where the reference has {wanted}; "
                f"{count} positions differ, first {first}"
            )
    return failures


def _largest(values: Tensor) -> Tensor:
    largest: Tensor = torch.linalg.vector_norm(values, math.inf)
    return largest
