"""Reads validation reports; a truncated, edited or extended one is refused."""

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
_OLD_OPERATORS = {"correctness": "fwd", "combine": "combine"}
"""The sections of reports that do not list their operators."""


class _Record(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


class CaseResult(_Record):
    """One check.

    Attributes:
        section: of the wheel's checks.
        name: states the parameters.
        kernels: the code that it ran with; empty for a free choice of kernels.
        error_ratio: the largest error as a fraction of its limit; None where nothing was measured.
        worst_ratio: the largest such fraction of all its errors.
        params: parameters of a failed check; older reports have them for every check, ``kernels`` included.
        figures: errors and limits of a failed check; older reports have them for every check.
        failures: one sentence for each limit that was exceeded.
        passed: whether there is no failure.
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
        """The largest error as a fraction of its limit; None where nothing was measured."""
        if self.error_ratio is not None:
            return self.error_ratio
        error, limit = self.figures.get("max_error"), self.figures.get("max_error_limit")
        return error / limit if error is not None and limit else None


class RaceSetting(_Record):
    """The call that was raced; fields of one operator alone are extra ones.

    ``head_dim_v`` None means head_dim; ``window`` None means no window. Older reports have neither.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, bool | int | float | str | None]

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
    """Times of one provider: milliseconds a call (median and quartiles over rounds) and TFLOP/s."""

    provider: str
    ms: float
    ms_quartile_low: float
    ms_quartile_high: float
    tflops: float
    calls_per_round: int


class GpuState(_Record):
    """The GPU while our kernel ran; None where the driver reports no value."""

    sm_clock_mhz: int | None
    power_watts: float | None
    temperature_celsius: int | None


class RaceResult(_Record):
    """One race. Ratios are above 1 where ours is faster, and None where the other provider could not run.

    ``kernels`` is the code that ours was restricted to, empty for a free choice; ``run`` numbers the races of
    one name; ``best`` is the fastest other provider. Older reports have none of these.
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
    """Host time of one eager call in microseconds; None, with the reason, where it could not run."""

    provider: str
    us: float | None
    us_quartile_low: float | None
    us_quartile_high: float | None
    absent: str


class Totals(_Record):
    """Numbers of checks."""

    cases: int
    races: int
    failed: int


class Report(_Record):
    """A validation report, bound to a wheel by the wheel's sha256."""

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
    operators: dict[str, str] = Field(default_factory=_OLD_OPERATORS.copy)
    """Section -> the operator whose cases it runs."""
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
        """Operator -> the codes whose cases of its section all passed.

        A case without a code, in older reports, ran exact kernels.
        """
        passed: dict[tuple[str, object], bool] = {}
        for case in self.cases:
            if op := self.operators.get(case.section):
                key = op, case.kernels or case.params.get("kernels", "exact")
                passed[key] = passed.get(key, True) and case.passed
        return {
            op: tuple(code for code in CODES if passed.get((op, code)))
            for op in dict.fromkeys(op for op, _ in passed)
        }

    @property
    def worst_error_ratio(self) -> float | None:
        """The largest error of any case as a fraction of its limit; None without cases."""
        ratios = (case.max_error_ratio for case in self.cases)
        return max((ratio for ratio in ratios if ratio is not None), default=None)


def read_report(path: Path) -> Report:
    """Read a report and check its digest and its totals.

    Raises:
        CorruptReport: the file cannot be read, is truncated, altered, of another schema, or its totals or
            results contradict its cases.
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
    except ValueError as error:  # json.loads accepts NaN and Infinity
        raise CorruptReport(f"{path}: {error}") from error
    if document.get(DIGEST_FIELD) != digest:
        raise CorruptReport(f"{path}: was altered: its {DIGEST_FIELD} is not the digest of its contents")
    try:
        # Strict mode accepts a JSON array as a tuple only when it parses the JSON itself.
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
            raise CorruptReport(
                f"{path}: {result.name} has passed={result.passed}, which contradicts its failures"
            )
    for case in report.cases:
        if case.passed and case.worst_ratio is not None and case.worst_ratio > 1:
            raise CorruptReport(f"{path}: {case.name} passed with {case.worst_ratio:g} times its limit")
    failed = sum(not result.passed for result in results)
    if report.totals != Totals(cases=len(report.cases), races=len(report.races), failed=failed):
        raise CorruptReport(f"{path}: its totals are not those of its cases and races")
    proven = failed == 0 and any(case.section == "correctness" for case in report.cases)
    if report.passed != proven:
        raise CorruptReport(
            f"{path}: has passed={report.passed} with {failed} of {len(results)} checks failed"
        )
