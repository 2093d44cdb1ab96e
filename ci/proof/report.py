"""Reads validation reports. A report that was cut, edited or extended is refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ci.errors import CorruptReport
from ci.gpu_side.report_file import DIGEST_FIELD, SCHEMA_VERSION, report_digest
from matrix.serving import CODES

if TYPE_CHECKING:
    from pathlib import Path

    from matrix.serving import Code

_Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_OURS = "flash_attn3"
# The sections whose cases prove an operator correct.
_OPERATORS = {"correctness": "fwd", "combine": "combine"}


class _Record(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


class CaseResult(_Record):
    """One check: what was run, what was measured and held to which limit, and which rules it broke.

    Of one that passed, the name says what was run, and two numbers how close it came to its limits:
    error_ratio is its largest error, and worst_ratio the one of its errors that came closest, as fractions of
    what is allowed; None where nothing was measured. Older reports have the params and the figures of every
    case instead, and say the kind of kernels among the params, if at all.
    """

    section: str
    name: str
    kernels: str = ""
    error_ratio: float | None = None
    worst_ratio: float | None = None
    params: dict[str, Any] = Field(default_factory=dict)
    figures: dict[str, float | None] = Field(default_factory=dict)
    failures: tuple[str, ...] = ()
    passed: bool = True

    @property
    def max_error_ratio(self) -> float | None:
        """The largest error as a fraction of what is allowed; None where nothing was measured."""
        if self.error_ratio is not None:
            return self.error_ratio
        error, limit = self.figures.get("max_error"), self.figures.get("max_error_limit")
        return error / limit if error is not None and limit else None


class RaceSetting(_Record):
    """What was raced. head_dim_v None is head_dim, window None is no window; older reports have neither."""

    dtype: str
    head_dim: int
    causal: bool
    seqlen: int
    batch: int
    heads: int
    head_dim_v: int | None = None
    group: int = 1
    window: int | None = None
    varlen: bool = False


class Timing(_Record):
    """What one provider took: milliseconds a call (median and quartiles over rounds) and TFLOP/s."""

    provider: str
    ms: float
    ms_quartile_low: float
    ms_quartile_high: float
    tflops: float
    calls_per_round: int


class GpuState(_Record):
    """The card while our kernel ran; None where the machine does not tell."""

    sm_clock_mhz: int | None
    power_watts: float | None
    temperature_celsius: int | None


class RaceResult(_Record):
    """One race. Ratios are above 1 where ours is faster, and None where the other could not run.

    kernels is the kind of kernels that ours was held to, empty when it chose; run counts the races of one
    name; best is the fastest of the others. Older reports have none of these.
    """

    name: str
    setting: RaceSetting
    kernels: str = ""
    run: int = 1
    rounds: int
    timings: tuple[Timing, ...]
    ratio_to_cudnn: float | None
    ratio_to_flash: float | None
    ratio_to_fa3: float | None = None
    best: str | None = None
    ratio_to_best: float | None = None
    multiple_of_best: float | None
    state: GpuState
    absent: dict[str, str]
    failures: tuple[str, ...]
    passed: bool

    @property
    def tflops(self) -> float:
        """The speed of our kernel."""
        return next(timing.tflops for timing in self.timings if timing.provider == _OURS)


class HostTime(_Record):
    """Microseconds that the host spends in one eager call; None, with the reason, where it could not run."""

    provider: str
    us: float | None
    us_quartile_low: float | None
    us_quartile_high: float | None
    absent: str


class Totals(_Record):
    """How many checks there were."""

    cases: int
    races: int
    failed: int


class Report(_Record):
    """A validation report, bound to a wheel by the sha256 of its bytes."""

    schema_version: int
    wheel_filename: str
    wheel_sha256: _Sha256
    wheel_size: int
    started: str
    finished: str
    quick: bool
    samples: int
    seed: int
    min_ratio: float | None
    min_portable_ratio: float | None = None
    race_runs: int = 1
    race_names: tuple[str, ...] = ()
    only_races: bool = False
    package_version: str
    kernels: dict[str, str]
    gpu: str
    compute_capability: str
    multiprocessors: int
    gpu_memory_bytes: int
    gpu_count: int
    driver: str
    torch: str
    torch_cuda: str | None
    cudnn: int | None
    python: str
    platform: str
    cases: tuple[CaseResult, ...]
    races: tuple[RaceResult, ...]
    host_times: tuple[HostTime, ...]
    totals: Totals
    passed: bool
    report_sha256: _Sha256

    @property
    def codes_passed(self) -> dict[str, tuple[Code, ...]]:
        """Operator -> the codes whose every correctness case passed.

        A case without a code, in older reports, ran exact kernels.
        """
        passed: dict[tuple[str, object], bool] = {}
        for case in self.cases:
            if op := _OPERATORS.get(case.section):
                key = op, case.kernels or case.params.get("kernels", "exact")
                passed[key] = passed.get(key, True) and case.passed
        return {
            op: tuple(code for code in CODES if passed.get((op, code)))
            for op in dict.fromkeys(op for op, _ in passed)
        }

    @property
    def worst_error_ratio(self) -> float | None:
        """The largest error of any case as a fraction of what the error rule allows; None without cases."""
        ratios = (case.max_error_ratio for case in self.cases)
        return max((ratio for ratio in ratios if ratio is not None), default=None)


def read_report(path: Path) -> Report:
    """Read a report and check it against its own digest and totals.

    Raises:
        CorruptReport: the file cannot be read, is truncated, altered, of another schema, or contradicts
            itself.
    """
    try:
        text = path.read_text(encoding="utf-8")
        document = json.loads(text)
    except (OSError, ValueError) as error:
        raise CorruptReport(f"{path}: cannot be read as a validation report: {error}") from error
    if not isinstance(document, dict) or document.get("schema_version") != SCHEMA_VERSION:
        raise CorruptReport(f"{path}: not a validation report of schema {SCHEMA_VERSION}")
    try:
        digest = report_digest(document)
    except ValueError as error:  # NaN and Infinity, which are no JSON
        raise CorruptReport(f"{path}: {error}") from error
    if document.get(DIGEST_FIELD) != digest:
        raise CorruptReport(f"{path}: was altered: its {DIGEST_FIELD} is not the digest of its contents")
    try:
        # Strict mode takes a JSON array for a tuple only when it reads JSON itself.
        report = Report.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise CorruptReport(f"{path}: {where}: {first['msg']}") from error
    _check_totals(report, path)
    return report


def _check_totals(report: Report, path: Path) -> None:
    results: tuple[CaseResult | RaceResult, ...] = (*report.cases, *report.races)
    for result in results:
        if result.passed == bool(result.failures):
            raise CorruptReport(f"{path}: {result.name} says passed={result.passed}, which its failures deny")
    for case in report.cases:
        if case.passed and case.worst_ratio is not None and case.worst_ratio > 1:
            raise CorruptReport(f"{path}: {case.name} passed with {case.worst_ratio:g} times what is allowed")
    failed = sum(not result.passed for result in results)
    if report.totals != Totals(cases=len(report.cases), races=len(report.races), failed=failed):
        raise CorruptReport(f"{path}: its totals are not those of its cases and races")
    proven = failed == 0 and any(case.section == "correctness" for case in report.cases)
    if report.passed != proven:
        raise CorruptReport(
            f"{path}: says passed={report.passed} with {failed} of {len(results)} checks failed"
        )
