"""A validation report as the index keeps it: the file's bytes, and the summary that the pages show."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ci.errors import CorruptReport
from ci.manifest import Proof
from ci.report import read_report

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Evidence:
    """One report: whose it is, what it says in short, and the bytes that the site serves."""

    source: Path
    wheel_sha256: str
    wheel_filename: str
    proof: Proof
    raw: bytes


def read_evidence(path: Path) -> Evidence:
    """Read a validation report.

    Raises:
        CorruptReport: the file is missing, truncated, altered or no report.
    """
    report = read_report(path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise CorruptReport(f"{path}: cannot be read: {error.strerror}") from error
    digest = hashlib.sha256(raw).hexdigest()
    failures = [f"{case.name}: {case.failures[0]}" for case in report.cases if case.failures]
    failures += [f"{race.name}: {race.failures[0]}" for race in report.races if race.failures]
    raced = sorted(report.races, key=lambda race: (race.setting.causal, race.setting.seqlen))
    proof = Proof(
        path=f"reports/{digest}.json",
        sha256=digest,
        passed=report.passed,
        quick=report.quick,
        failure=failures[0] if failures else "",
        gpu=report.gpu,
        driver=report.driver,
        torch=report.torch,
        cases_passed=sum(case.passed for case in report.cases),
        cases_total=len(report.cases),
        worst_error_ratio=report.worst_error_ratio,
        races={race.name: race.ratio_to_cudnn for race in raced if race.ratio_to_cudnn is not None},
        tflops={race.name: race.tflops for race in raced if race.ratio_to_cudnn is not None},
    )
    return Evidence(path, report.wheel_sha256, report.wheel_filename, proof, raw)
