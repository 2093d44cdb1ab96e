"""Cases of attention backward: those of forward that have gradients."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import cycle
from typing import TYPE_CHECKING, Any

from flash_attn3.checks.cases.catalogue import full_cases, quick_cases
from flash_attn3.checks.cases.forms import FORMS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from flash_attn3.checks.cases.case import AttentionCase

CATEGORIES = ("plain", "layout", "ragged", "values")
"""What a case tests: plain calls, memory layouts, sequences of different lengths, hard values."""
# Values of which the gradients are finite in float64 and in the dtype of the case.
_VALUES = (
    "normal",
    "uniform",
    "outliers",
    "peaked",
    "equal_logits",
    "huge_logits",
    "rising_keys",
    "outrunning_keys",
)
# (lse_gradient, deterministic), in turn.
_KINDS = ((False, False), (True, False), (False, True), (True, True))


@dataclass(frozen=True)
class BackwardCase:
    """One call of attention and of its backward pass.

    Attributes:
        attention: the call.
        lse_gradient: the loss depends on the LSE as well.
        deterministic: the call asks for gradients with the same bits every time.
    """

    attention: AttentionCase
    lse_gradient: bool = False
    deterministic: bool = False

    @property
    def name(self) -> str:
        """The name of the call, and what its backward pass has besides."""
        return self.attention.name + "-lse" * self.lse_gradient + "-deterministic" * self.deterministic

    @property
    def category(self) -> str:
        """One of ``CATEGORIES``."""
        return self.attention.category

    def params(self) -> dict[str, Any]:
        """Return the case as plain data."""
        extra = {"lse_gradient": self.lse_gradient, "deterministic": self.deterministic}
        return self.attention.params() | {name: True for name, value in extra.items() if value}


def _has_gradient(case: AttentionCase) -> bool:
    return case.values in _VALUES and not case.page_size and not FORMS.get(case.form, FORMS["packed"]).shared


def _of(cases: Iterable[AttentionCase]) -> Iterator[BackwardCase]:
    kinds = cycle(_KINDS)
    for case in cases:
        if _has_gradient(case):
            yield BackwardCase(_shorter(case), *next(kinds))


def _shorter(case: AttentionCase) -> AttentionCase:
    """Return the case with fewer rows: the float64 gradients of 16k x 16k scores take a minute."""
    return replace(case, seqlen_q=min(case.seqlen_q, 4096), seqlen_k=min(case.seqlen_k, 4096))


def full_backward_cases(samples: int, seed: int) -> tuple[BackwardCase, ...]:
    """Return every fixed case once, and ``samples`` random ones drawn from ``seed``, less those without."""
    return (*{case.name: case for case in _of(full_cases(samples, seed))}.values(),)


def quick_backward_cases() -> tuple[BackwardCase, ...]:
    """Return a small selection."""
    return tuple(_of(quick_cases()))
