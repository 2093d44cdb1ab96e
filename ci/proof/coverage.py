"""Whether a report covers a wheel: its checks ran every kernel for the GPU with cases of every category."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from matrix.serving import runs_on

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ci.proof.report import Report
    from matrix.serving import Code

_WITHOUT_CASES = frozenset({"race", "host_time"})
"""Sections that put nothing among a report's cases."""
_BESIDE = " + "
"""Between the kernels of one call in a report."""


@dataclass(frozen=True)
class CompiledKernel:
    """A kernel of a wheel: its operator, the SM it is compiled for, and its code."""

    name: str
    op: str
    sm: int
    code: Code


def find_gaps(report: Report, kernels: Sequence[CompiledKernel], minimum: int) -> tuple[str, ...]:
    """Return a sentence for each thing that the checks of a report did not run; empty if it proves the wheel.

    Args:
        report: of the wheel.
        kernels: of the wheel, as its ``build.json`` lists them.
        minimum: of cases of each category that must have passed with each kernel.
    """
    return (*_of_kernels(report, kernels, minimum), *_of_sections(report))


def _of_kernels(report: Report, kernels: Sequence[CompiledKernel], minimum: int) -> Iterator[str]:
    passed: dict[tuple[str, str, str], int] = {}
    for row in report.cases:
        if section := report.operators.get(row.section):
            for name in row.kernel.split(_BESIDE):
                key = section.op, name, row.category
                passed[key] = passed.get(key, 0) + row.passed
    categories = {section.op: section.categories for section in report.operators.values()}
    running = [kernel for kernel in kernels if runs_on(report.sm, kernel.sm, kernel.code)]
    if not running:
        yield f"the wheel has no kernel for sm_{report.sm}"
    for kernel in running:
        if not categories.get(kernel.op):
            yield f"{kernel.name}: the report has no cases of the operator {kernel.op}"
        for category in categories.get(kernel.op, ()):
            found = passed.get((kernel.op, kernel.name, category), 0)
            if found < minimum:
                yield f"{kernel.name}: {found} cases of category {category} passed, of {minimum} needed"


def _of_sections(report: Report) -> Iterator[str]:
    ran = {row.section for row in report.cases}
    for section in report.sections:
        if section not in _WITHOUT_CASES and section not in ran:
            yield f"the section {section} ran no check"
