"""A report as the index stores it: its bytes, and the summary that the pages show."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ci.errors import OtherReportSchema, RacesAlone
from ci.proof.coverage import find_gaps
from ci.proof.emulation import find_emulation_gaps, is_emulation, parse_emulation
from ci.proof.report import Report, parse_report, report_bytes
from ci.proof.signature import signer_of
from index_site.proofs import Emulation, PeerSpeed, Proof

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from ci.proof.coverage import CompiledKernel
    from ci.proof.emulation import EmulationReport
    from ci.proof.report import RaceResult
    from index_site.proofs import Voucher
    from matrix.model import Matrix


@dataclass(frozen=True)
class Policy:
    """What a report needs to put a wheel on ``stable``.

    Attributes:
        keys: name -> public key in hex, of those who may vouch for a report by signing it.
        min_cases: of each category that must have passed with each kernel.
        trust_unsigned: whether this site vouches for reports without a signature, and says so on its page.
        emulated: platform tags of the wheels for which an emulation of the host part is enough, where a GPU
            has validated their kernels in another wheel.
    """

    keys: Mapping[str, str] = field(default_factory=dict)
    min_cases: int = 1
    trust_unsigned: bool = False
    emulated: frozenset[str] = frozenset()

    @classmethod
    def of(cls, matrix: Matrix, *, trust_unsigned: bool) -> Policy:
        """Return the policy of the matrix."""
        release = matrix.release
        emulated = frozenset(str(row.tag) for row in matrix.platform if row.proof == "emulation")
        return cls(release.keys, release.min_cases, trust_unsigned, emulated)


@dataclass(frozen=True)
class Evidence:
    """One report: its file and bytes, what is in it, and who vouches for it (see :class:`Proof`)."""

    source: Path
    raw: bytes
    report: Report | EmulationReport
    voucher: Voucher
    signed_by: str = ""

    @property
    def wheel_sha256(self) -> str:
        """Of the wheel that it is about."""
        return self.report.wheel_sha256

    @property
    def path(self) -> str:
        """Path at which the site serves the report."""
        return f"reports/{self.sha256}.json"

    @property
    def sha256(self) -> str:
        """Of the report itself."""
        return hashlib.sha256(self.raw).hexdigest()


@dataclass(frozen=True)
class Validation(Evidence):
    """A report of a validation on a GPU."""

    report: Report

    def proof(self, kernels: Sequence[CompiledKernel], min_cases: int) -> Proof:
        """Return the summary for the manifest.

        Args:
            kernels: of the wheel.
            min_cases: see :class:`Policy`.
        """
        report = self.report
        failures = [f"{case.name}: {case.failures[0]}" for case in report.outcomes if case.failures]
        failures += [f"{race.name}: {race.failures[0]}" for race in report.races if race.failures]
        races = _slowest(sorted(report.races, key=lambda race: (race.setting.causal, race.setting.seqlen)))
        return Proof(
            path=self.path,
            sha256=self.sha256,
            passed=report.passed,
            quick=report.quick,
            failure=failures[0] if failures else "",
            gap=_first(find_gaps(report, kernels, min_cases)),
            voucher=self.voucher,
            signed_by=self.signed_by,
            gpu=report.gpu,
            driver=report.driver,
            torch=report.torch,
            cases_passed=sum(row.passed for row in report.cases),
            cases_total=report.totals.cases,
            worst_error_ratio=report.worst_error_ratio,
            races={name: race.ratios["cudnn"] for name, race in races.items()},
            tflops={name: race.tflops for name, race in races.items()},
            peers=_peers(races),
            sm=report.sm,
            proven=report.codes_passed,
        )


@dataclass(frozen=True)
class EmulatedRun(Evidence):
    """A report of an emulation of the host part."""

    report: EmulationReport

    def emulation(self, tags: Iterable[str], policy: Policy) -> Emulation:
        """Return the summary for the manifest.

        Args:
            tags: of the wheel, such as ``py3-none-manylinux_2_28_aarch64``.
            policy: names the platforms for which an emulation is enough.
        """
        report = self.report
        platforms = {tag.rsplit("-", 1)[1] for tag in tags}
        gaps = [] if policy.emulated & platforms else ["a wheel for this platform needs a GPU's validation"]
        gaps += find_emulation_gaps(report)
        return Emulation(
            path=self.path,
            sha256=self.sha256,
            passed=report.passed,
            quick=report.quick,
            failure=next((f"{check.name}: {check.failure}" for check in report.failed), ""),
            gap=_first(gaps),
            voucher=self.voucher,
            signed_by=self.signed_by,
            emulator=report.emulator,
            machine=report.machine,
            python=report.python,
            torch=report.torch,
            checks_passed=report.checks_passed,
            checks_total=len(report.checks),
        )


def _first(gaps: Sequence[str]) -> str:
    """Return the first sentence, and how many more there are; empty without one."""
    more = f" (and {len(gaps) - 1} more)" if len(gaps) > 1 else ""
    return f"{gaps[0]}{more}" if gaps else ""


def read_evidence(path: Path, policy: Policy) -> Evidence:
    """Read a report that an operator gives.

    Raises:
        CorruptReport: the file is missing, truncated, altered or no report.
        RacesAlone: it holds races only.
        BadSignature: its signature is not one of this report by a key of the policy.
    """
    raw, report = _read(path)
    signed_by = signer_of(report, policy.keys, path)
    voucher: Voucher = "signature" if signed_by else "site" if policy.trust_unsigned else ""
    return _evidence(path, raw, report, voucher, signed_by)


def _read(path: Path) -> tuple[bytes, Report | EmulationReport]:
    raw = report_bytes(path)
    if is_emulation(raw):
        return raw, parse_emulation(raw, path)
    report = parse_report(raw, path)
    if report.only_races:
        raise RacesAlone(
            f"{path}: holds races only, which prove no wheel; run validate without `--only-races`"
        )
    return raw, report


def _evidence(
    path: Path, raw: bytes, report: Report | EmulationReport, voucher: Voucher, signed_by: str = ""
) -> Evidence:
    if isinstance(report, Report):
        return Validation(path, raw, report, voucher, signed_by)
    return EmulatedRun(path, raw, report, voucher, signed_by)


def _slowest(raced: Iterable[RaceResult]) -> dict[str, RaceResult]:
    """Return the run of each race, by name, that has the smallest ratio to cuDNN.

    Left out are races restricted to the kernels of one code, and those of calls for which cuDNN has no kernel
    of its own: windows, sequences of different lengths, groups of heads, two head dimensions, a fixed order.
    """
    races: dict[str, RaceResult] = {}
    for race in raced:
        if "cudnn" in race.ratios and _is_plain(race):
            rival = races.get(race.name)
            if rival is None or race.ratios["cudnn"] < rival.ratios["cudnn"]:
                races[race.name] = race
    return races


def _peers(races: Mapping[str, RaceResult]) -> dict[str, dict[str, PeerSpeed]]:
    """Return the speeds of the other implementations in these races."""
    peers: dict[str, dict[str, PeerSpeed]] = {}
    for name, race in races.items():
        tflops = {timing.provider: timing.tflops for timing in race.timings}
        for other, ratio in race.ratios.items():
            peers.setdefault(other, {})[name] = PeerSpeed(tflops=tflops[other], ratio=ratio)
    return peers


def _is_plain(race: RaceResult) -> bool:
    setting = race.setting
    special = (race.kernels, setting.head_dim_v, setting.window, setting.varlen, setting.deterministic)
    return setting.op in {"fwd", "bwd"} and setting.group == 1 and not any(special)


def read_archive(folder: Path, warn: Callable[[str], None]) -> list[Evidence]:
    """Read the reports (``*.json``) in and below a folder of the tree, which vouches for them, by name.

    Args:
        folder: of the reports.
        warn: receives a line for each report of another schema, which is left out: an older tree wrote it.

    Raises:
        CorruptReport, RacesAlone: as :func:`read_evidence` does.
    """
    found = (_kept(path, warn) for path in sorted(folder.rglob("*.json")))
    return [evidence for evidence in found if evidence is not None]


def _kept(path: Path, warn: Callable[[str], None]) -> Evidence | None:
    try:
        raw, report = _read(path)
    except OtherReportSchema as error:
        warn(f"{error}; it counts for no wheel")
        return None
    return _evidence(path, raw, report, "tree")
