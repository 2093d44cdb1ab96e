"""Cases of attention backward: those of forward that have gradients."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from zlib import crc32

from flash_attn3.checks.cases.case import DTYPES
from flash_attn3.checks.cases.catalogue import full_cases, quick_cases
from flash_attn3.checks.cases.forms import FORMS
from flash_attn3.checks.cases.per_kernel import per_kernel

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from flash_attn3.checks.cases.case import AttentionCase

CATEGORIES = ("plain", "layout", "ragged", "values")
"""What a case tests: plain calls, memory layouts, sequences of different lengths, hard values."""
_OF_BACKWARD_ALONE = ((64, 256),)  # head dimensions of kernels that forward does not have
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
# (lse_gradient, deterministic), one for each case.
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
    for case in filter(_has_gradient, cases):
        kind = _KINDS[crc32(case.name.encode()) % len(_KINDS)]  # the same in every selection
        yield BackwardCase(_shorter(case), *kind)


def _shorter(case: AttentionCase) -> AttentionCase:
    """Return the case with fewer rows: the float64 gradients of 16k x 16k scores take a minute."""
    return replace(case, seqlen_q=min(case.seqlen_q, 4096), seqlen_k=min(case.seqlen_k, 4096))


def full_backward_cases(samples: int, seed: int) -> tuple[BackwardCase, ...]:
    """Return every fixed case once, and ``samples`` random ones drawn from ``seed``, less those without."""
    every = (*full_cases(samples, seed), *per_kernel(DTYPES, _OF_BACKWARD_ALONE))
    return (*{case.name: case for case in _of(every)}.values(),)


def backward_cases_per_kernel() -> tuple[BackwardCase, ...]:
    """Return the fixed cases that prove each kernel."""
    return tuple(_of((*per_kernel(DTYPES), *per_kernel(DTYPES, _OF_BACKWARD_ALONE))))


def quick_backward_cases() -> tuple[BackwardCase, ...]:
    """Return a small selection."""
    return tuple(_of(quick_cases()))
