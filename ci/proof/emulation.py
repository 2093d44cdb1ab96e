"""An emulation report: the suite of one wheel's host part, run in an emulator of its processor.

It is a report beside the validation reports, with a schema of its own: it says nothing of the kernels.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from ci.errors import CorruptReport
from ci.proof.document import check_schema, load_document, parse_document
from ci.proof.report import Signature, report_bytes
from index_site.record import Record, Sha256

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SCHEMA_VERSION = 1
KIND = "emulation"
SECTIONS = ("torch", "package", "tracing", "runtime", "operators")
"""Of the suite, all of which a wheel needs."""


class EmulatedCheck(Record):
    """A check of the suite: its wall time in seconds, and why it failed; empty if it passed."""

    section: str
    name: str
    seconds: Annotated[float, Field(ge=0)]
    failure: str


class EmulationReport(Record):
    """A report, bound to a wheel by the wheel's sha256.

    Attributes:
        quick: whether the slowest checks were left out.
        emulator: the first line that it prints about itself.
        machine: the emulated processor, as its Python names it.
    """

    schema_version: int
    kind: Literal["emulation"]
    wheel_filename: str
    wheel_sha256: Sha256
    wheel_size: int
    platform: str
    started: str
    finished: str
    quick: bool
    emulator: str
    machine: str
    libc: str
    python: str
    torch: str
    checks: tuple[EmulatedCheck, ...]
    checks_passed: Annotated[int, Field(ge=0)]
    checks_failed: Annotated[int, Field(ge=0)]
    passed: bool
    report_sha256: Sha256
    signature: Signature | None = None

    @property
    def failed(self) -> tuple[EmulatedCheck, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.failure)


def find_emulation_gaps(report: EmulationReport) -> Iterator[str]:
    """Yield a sentence for each section of the suite that a report lacks."""
    ran = {check.section for check in report.checks}
    return (f"the section {section} ran no check" for section in SECTIONS if section not in ran)


def read_emulation(path: Path) -> EmulationReport:
    """Read a report and check its digest and its totals.

    Raises:
        OtherReportSchema: it is of another schema.
        CorruptReport: the file cannot be read, is no such report, was altered or contradicts itself.
    """
    return parse_emulation(report_bytes(path), path)


def is_emulation(raw: bytes) -> bool:
    """Whether the bytes of a report are of this kind; those of no report are not."""
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError):
        return False
    return isinstance(document, dict) and document.get("kind") == KIND


def parse_emulation(raw: bytes, path: Path) -> EmulationReport:
    """Read a report from the bytes of ``path``; raises as :func:`read_emulation` does."""
    text, document = load_document(raw, path, "an emulation report")
    if not isinstance(document, dict) or document.get("kind") != KIND:
        raise CorruptReport(f"{path}: not an emulation report")
    check_schema(document, path, SCHEMA_VERSION, "emulate")
    report = parse_document(text, document, path, EmulationReport)
    counted = (len(report.checks) - len(report.failed), len(report.failed))
    if (report.checks_passed, report.checks_failed) != counted:
        raise CorruptReport(f"{path}: its totals are not those of its checks")
    if report.passed != (bool(report.checks) and not report.failed):
        raise CorruptReport(f"{path}: has passed={report.passed}, which contradicts its checks")
    return report
