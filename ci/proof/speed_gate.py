"""The speed gate: the races of a report against those of an earlier one, made on a GPU of the same name.

Times of two days differ with the GPU's clock and temperature. Ratios to the others that were raced in the
same process do not, so these are compared.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ci.errors import NotJudged

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ci.proof.report import RaceResult, Report

CELL_FLOOR = 0.97
"""The least that a cell may keep of its speed."""
MEAN_FLOOR = 0.99
"""The least that the geometric mean of all cells may keep."""


@dataclass(frozen=True)
class SpeedRow:
    """One cell: a race, and what it keeps of its earlier speed."""

    name: str
    before: dict[str, float]
    """Ratio to each other implementation that was raced both times, in the earlier report."""
    after: dict[str, float]

    @property
    def kept(self) -> float:
        """The speed against the earlier one: the geometric mean over the implementations; 1 is the same."""
        return statistics.geometric_mean(self.after[other] / self.before[other] for other in self.before)

    @property
    def passed(self) -> bool:
        """Whether the cell keeps enough."""
        return self.kept >= CELL_FLOOR


@dataclass(frozen=True)
class SpeedComparison:
    """Every cell, in the order of the earlier report."""

    rows: tuple[SpeedRow, ...]

    @property
    def mean(self) -> float:
        """The geometric mean of what the cells keep."""
        return statistics.geometric_mean(row.kept for row in self.rows)

    @property
    def passed(self) -> bool:
        """Whether every cell and the mean keep enough."""
        return self.mean >= MEAN_FLOOR and all(row.passed for row in self.rows)


def compare_speed(report: Report, baseline: Report) -> SpeedComparison:
    """Compare the races of a report with those of an earlier one.

    Raises:
        NotJudged: the GPUs differ, or a race of the earlier report has no counterpart.
    """
    if report.gpu != baseline.gpu:
        raise NotJudged(f"the report should be of the earlier one's GPU, {baseline.gpu}, is of {report.gpu}")
    old, new = _ratios(baseline.races), _ratios(report.races)
    rows = []
    for cell, before in old.items():
        both = [other for other in before if other in new.get(cell, {})]
        if not both:
            raise NotJudged(f"race {cell}: should have run against {' or '.join(before)} again, has not")
        after = new[cell]
        rows.append(
            SpeedRow(cell, {other: before[other] for other in both}, {other: after[other] for other in both})
        )
    if not rows:
        raise NotJudged("the earlier report should hold races against others, holds none")
    return SpeedComparison(tuple(rows))


def _ratios(races: Iterable[RaceResult]) -> dict[str, dict[str, float]]:
    """Return cell -> other implementation -> ratio, the geometric mean over the runs."""
    found: dict[str, dict[str, list[float]]] = {}
    for race in races:
        cell = f"{race.name} {race.kernels}".rstrip()
        for other, ratio in race.ratios.items():
            found.setdefault(cell, {}).setdefault(other, []).append(ratio)
    return {
        cell: {other: statistics.geometric_mean(ratios) for other, ratios in others.items()}
        for cell, others in found.items()
    }
