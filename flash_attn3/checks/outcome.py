"""Outcome of one check, as it is printed, passed between processes and written to reports."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Outcome:
    """One judged check.

    Attributes:
        section: the group of checks it belongs to.
        name: unique within the section.
        params: of the check: shapes, dtype, mask, layout, seed, kernel.
        figures: measured errors and their limits; None where a figure is not finite.
        failures: a sentence for each broken rule; empty if the check passed.
        category: of the case, see ``OpCheck.categories``; empty for what is no case of an operator.
    """

    section: str
    name: str
    params: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, float | None] = field(default_factory=dict)
    failures: tuple[str, ...] = ()
    category: str = ""

    @property
    def passed(self) -> bool:
        """Whether no rule was broken."""
        return not self.failures

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON, which has no infinities."""
        return {
            "section": self.section,
            "name": self.name,
            "category": self.category,
            "params": self.params,
            "figures": {name: finite(value) for name, value in self.figures.items()},
            "failures": list(self.failures),
            "passed": self.passed,
        }


def finite(value: float | None) -> float | None:
    """Return the value to six digits, or None when it is infinite or not a number."""
    return float(f"{value:.6g}") if value is not None and math.isfinite(value) else None
