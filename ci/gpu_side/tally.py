"""Counts the outcomes of checks for a report: a row for each group of them, and every failure as a whole.

Thousands of checks pass. What a judge needs of them is how many ran with each kernel, and how near they came
to their limits.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

_LIMIT = "_limit"


class Group(NamedTuple):
    """The checks that a row counts.

    Attributes:
        section: of the wheel's checks.
        category: what they test; empty for what is no case of an operator.
        code: of the kernels that they were restricted to; empty for a free choice of kernels.
        kernel: name of the kernel that they ran; empty if they ran several.
    """

    section: str
    category: str
    code: str
    kernel: str


@dataclass
class _Row:
    passed: int = 0
    failed: int = 0
    error_ratio: float | None = None
    worst_ratio: float | None = None
    worst: str = ""


@dataclass
class Tally:
    """The outcomes so far.

    Attributes:
        outcomes: those that a report holds as a whole: every failed one, and those added as ``whole``.
    """

    outcomes: list[dict[str, Any]] = field(default_factory=list)
    _rows: dict[Group, _Row] = field(default_factory=dict)

    def add(self, outcome: dict[str, Any], *, whole: bool = False) -> None:
        """Count an outcome of the wheel's checks, see ``flash_attn3.checks.outcome``."""
        group, rest = _split(outcome)
        row = self._rows.setdefault(group, _Row())
        row.passed += outcome["passed"]
        row.failed += not outcome["passed"]
        if whole or not outcome["passed"]:
            self.outcomes.append({**group._asdict(), **rest})
        if not outcome["passed"]:
            return
        ratios = _ratios(outcome["figures"])
        if "max_error" in ratios:
            row.error_ratio = max(row.error_ratio or 0.0, ratios["max_error"])
        worst = max(ratios.values(), default=None)
        if worst is not None and (row.worst_ratio is None or worst > row.worst_ratio):
            row.worst_ratio, row.worst = worst, outcome["name"]

    @property
    def count(self) -> int:
        """Number of outcomes."""
        return sum(row.passed + row.failed for row in self._rows.values())

    @property
    def failed(self) -> int:
        """Number of failed outcomes."""
        return sum(row.failed for row in self._rows.values())

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the rows, sorted; fields without a value are left out (``ci.proof.report.CaseRow``)."""
        for group, row in sorted(self._rows.items()):
            fields = {**group._asdict(), **vars(row)}
            yield {name: value for name, value in fields.items() if value not in ("", None)}


def _split(outcome: dict[str, Any]) -> tuple[Group, dict[str, Any]]:
    """Return the group of an outcome, and the fields that the group does not state."""
    params = dict(outcome["params"])
    code, kernel = params.pop("kernels", ""), params.pop("kernel", "")
    group = Group(outcome["section"], outcome["category"], code, kernel)
    kept = {key: outcome[key] for key in ("name", "figures", "failures", "passed")}
    return group, {**kept, "params": params}


def _ratios(figures: dict[str, float | None]) -> dict[str, float]:
    """Return each error that has a limit as a fraction of the limit, to three digits."""
    ratios = {}
    for name, error in figures.items():
        limit = figures.get(name + _LIMIT)
        if error is not None and limit:
            ratios[name] = float(f"{error / limit:.3g}")
    return ratios
