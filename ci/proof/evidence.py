"""A validation report as the index stores it: its bytes, and the summary that the pages show."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ci.errors import CorruptReport, RacesAlone
from ci.proof.report import read_report
from index_site.manifest import Proof

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from ci.proof.report import RaceResult


@dataclass(frozen=True)
class Evidence:
    """One report: its file, the wheel it validates, its summary, and the bytes that the site serves."""

    source: Path
    wheel_sha256: str
    wheel_filename: str
    proof: Proof
    raw: bytes


def read_evidence(path: Path) -> Evidence:
    """Read a validation report.

    Raises:
        CorruptReport: the file is missing, truncated, altered or no report.
        RacesAlone: it holds races only.
    """
    report = read_report(path)
    if report.only_races:
        raise RacesAlone(
            f"{path}: holds races only, which prove no wheel; run validate without `--only-races`"
        )
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise CorruptReport(f"{path}: cannot be read: {error.strerror}") from error
    digest = hashlib.sha256(raw).hexdigest()
    failures = [f"{case.name}: {case.failures[0]}" for case in report.cases if case.failures]
    failures += [f"{race.name}: {race.failures[0]}" for race in report.races if race.failures]
    raced = sorted(report.races, key=lambda race: (race.setting.causal, race.setting.seqlen))
    races, tflops = _slowest(raced)
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
        races=races,
        tflops=tflops,
        sm=report.compute_capability.replace(".", ""),
        proven=report.codes_passed,
    )
    return Evidence(path, report.wheel_sha256, report.wheel_filename, proof, raw)


def _slowest(raced: Iterable[RaceResult]) -> tuple[dict[str, float], dict[str, float]]:
    """Return the ratio to cuDNN and the TFLOP/s of the slowest run of each race, by name.

    Races restricted to the kernels of one code are left out.
    """
    races: dict[str, float] = {}
    tflops: dict[str, float] = {}
    for race in raced:
        ratio = race.ratio_to_cudnn
        if ratio is not None and not race.kernels and ratio < races.get(race.name, math.inf):
            races[race.name], tflops[race.name] = ratio, race.tflops
    return races, tflops


def read_archive(folder: Path) -> list[Evidence]:
    """Read the reports (``*.json``) of a folder, sorted by name.

    Raises:
        CorruptReport, RacesAlone: as :func:`read_evidence` does.
    """
    return [read_evidence(path) for path in sorted(folder.glob("*.json"))]
