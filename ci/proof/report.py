"""Reads validation reports; a truncated, edited or extended one is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import ConfigDict, Field

from ci.errors import CorruptReport
from ci.gpu_side.report_file import SCHEMA_VERSION
from ci.proof.document import check_schema, load_document, parse_document
from index_site.record import Record, Sha256
from matrix.serving import CODES

if TYPE_CHECKING:
    from pathlib import Path

    from matrix.serving import Code

_OURS = "flash_attn3"
_Group = tuple[str, str, str, str]


class CaseRow(Record):
    """The checks of one group: how many passed, and how near they came to their limits.

    Attributes:
        section: of the wheel's checks.
        category: what the cases test, see :class:`OperatorSection`; empty for what is no case of an operator.
        code: of the kernels that the checks were restricted to; empty for a free choice of kernels.
        kernel: the kernel that they ran, or those of each call, joined by `` + ``; empty if they ran others.
        passed: number of checks that passed.
        failed: number of checks that failed; the report's ``outcomes`` hold each.
        error_ratio: the largest error of those that passed, as a fraction of its limit; None without errors.
        worst_ratio: the largest such fraction of all their figures.
        worst: name of the check that has it.
    """

    section: str
    category: str = ""
    code: Literal["", "exact", "portable", "ptx"] = ""
    kernel: str = ""
    passed: Annotated[int, Field(ge=0)]
    failed: Annotated[int, Field(ge=0)]
    error_ratio: Annotated[float, Field(ge=0, le=1)] | None = None
    worst_ratio: Annotated[float, Field(ge=0, le=1)] | None = None
    worst: str = ""

    @property
    def group(self) -> _Group:
        """What tells the row from others."""
        return self.section, self.category, self.code, self.kernel


class CaseOutcome(Record):
    """One check as a whole: one that failed, or a floor on speed.

    Attributes:
        name: states the parameters.
        params: of the check.
        figures: errors and limits.
        failures: one sentence for each limit that was exceeded.
        passed: whether there is no failure.
    """

    section: str
    category: str
    code: str
    kernel: str
    name: str
    params: dict[str, Any]
    figures: dict[str, float | None]
    failures: tuple[str, ...]
    passed: bool

    @property
    def group(self) -> _Group:
        """The group of the row that counts it."""
        return self.section, self.category, self.code, self.kernel


class OperatorSection(Record):
    """A section that runs the cases of an operator, and the categories of these cases."""

    op: str
    categories: tuple[str, ...]


class RaceSetting(Record):
    """The call that was raced; fields of one operator alone are extra ones.

    ``head_dim_v`` None means head_dim; ``window`` None means no window.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, bool | int | float | str | None]

    dtype: str
    head_dim: int
    causal: bool
    seqlen: int
    batch: int
    heads: int
    op: str = "fwd"
    head_dim_v: int | None = None
    group: int = 1
    window: int | None = None
    varlen: bool = False
    deterministic: bool = False


class Timing(Record):
    """Times of one provider: milliseconds a call (median and quartiles over rounds) and TFLOP/s."""

    provider: str
    ms: float
    ms_quartile_low: float
    ms_quartile_high: float
    tflops: float
    calls_per_round: int


class GpuState(Record):
    """The GPU while our kernel ran; None where the driver reports no value."""

    sm_clock_mhz: int | None
    power_watts: float | None
    temperature_celsius: int | None


class RaceResult(Record):
    """One race. Ratios are above 1 where ours is faster, and None where the other provider could not run.

    ``kernels`` is the code that ours was restricted to, empty for a free choice; ``run`` numbers the races of
    one name; ``best`` is the fastest other provider. ``judged`` false: no floor on speed holds for it, the
    ratios are recorded.
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
    judged: bool = True
    state: GpuState
    absent: dict[str, str]
    failures: tuple[str, ...]
    passed: bool

    @property
    def ratios(self) -> dict[str, float]:
        """The ratio to each other implementation that ran."""
        found = {"cudnn": self.ratio_to_cudnn, "flash": self.ratio_to_flash, "fa3": self.ratio_to_fa3}
        return {other: ratio for other, ratio in found.items() if ratio is not None}

    @property
    def tflops(self) -> float:
        """The speed of our kernel."""
        return next(timing.tflops for timing in self.timings if timing.provider == _OURS)


class HostTime(Record):
    """Host time of one eager call in microseconds; None, with the reason, where it could not run."""

    provider: str
    us: float | None
    us_quartile_low: float | None
    us_quartile_high: float | None
    absent: str


class Totals(Record):
    """Numbers of checks."""

    cases: int
    races: int
    failed: int


class Signature(Record):
    """An ed25519 signature over ``report_sha256``, and its public key, in hex; see ``ci.proof.signature``."""

    public_key: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    ed25519: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]


class Report(Record):
    """A validation report, bound to a wheel by the wheel's sha256."""

    schema_version: int
    wheel_filename: str
    wheel_sha256: Sha256
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
    sections: tuple[str, ...]
    """Those that ran, in order."""
    operators: dict[str, OperatorSection]
    """Section -> the operator whose cases it runs."""
    package_version: str
    kernels: dict[str, str]
    gpu: str
    compute_capability: Annotated[str, Field(pattern=r"^[1-9][0-9]*\.[0-9]$")]
    multiprocessors: int
    gpu_memory_bytes: int
    gpu_count: int
    driver: str
    torch: str
    torch_cuda: str | None
    cudnn: int | None
    python: str
    platform: str
    cases: tuple[CaseRow, ...]
    outcomes: tuple[CaseOutcome, ...]
    races: tuple[RaceResult, ...]
    host_times: tuple[HostTime, ...]
    totals: Totals
    passed: bool
    report_sha256: Sha256
    signature: Signature | None = None

    @property
    def sm(self) -> str:
        """SM of the GPU, such as ``90``."""
        return self.compute_capability.replace(".", "")

    @property
    def codes_passed(self) -> dict[str, tuple[Code, ...]]:
        """Operator -> the codes whose cases of its sections all passed."""
        passed: dict[tuple[str, str], bool] = {}
        for row in self.cases:
            if section := self.operators.get(row.section):
                key = section.op, row.code
                passed[key] = passed.get(key, True) and row.failed == 0
        return {
            op: tuple(code for code in CODES if passed.get((op, code)))
            for op in dict.fromkeys(op for op, _ in passed)
        }

    @property
    def worst_error_ratio(self) -> float | None:
        """The largest error of a case that passed, as a fraction of its limit; None without cases."""
        return max((row.error_ratio for row in self.cases if row.error_ratio is not None), default=None)


def read_report(path: Path) -> Report:
    """Read a report and check its digest and its totals.

    Raises:
        OtherReportSchema: it is of another schema.
        CorruptReport: the file cannot be read, is truncated or altered, or its totals or results contradict
            its cases.
    """
    return parse_report(report_bytes(path), path)


def report_bytes(path: Path) -> bytes:
    """Return the bytes of a report of any kind.

    Raises:
        CorruptReport: the file cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise CorruptReport(f"{path}: cannot be read as a report: {error.strerror}") from error


def parse_report(raw: bytes, path: Path) -> Report:
    """Read a report from the bytes of ``path``; raises as :func:`read_report` does."""
    text, document = load_document(raw, path, "a validation report")
    if isinstance(document, dict) and "kind" in document:
        raise CorruptReport(f"{path}: should be a validation report, got an {document['kind']} report")
    if not isinstance(document, dict) or "schema_version" not in document:
        raise CorruptReport(f"{path}: not a validation report")
    check_schema(document, path, SCHEMA_VERSION, "validate")
    report = parse_document(text, document, path, Report)
    _check_totals(report, path)
    return report


def _check_totals(report: Report, path: Path) -> None:
    """Check that everything which follows from the rows, the outcomes and the races does so."""
    results: tuple[CaseOutcome | RaceResult, ...] = (*report.outcomes, *report.races)
    for result in results:
        if result.passed == bool(result.failures):
            raise CorruptReport(
                f"{path}: {result.name} has passed={result.passed}, which contradicts its failures"
            )
    rows = {row.group: row for row in report.cases}
    if len(rows) != len(report.cases):
        raise CorruptReport(f"{path}: two rows of its cases count the same group")
    for row in report.cases:
        kept = [outcome for outcome in report.outcomes if outcome.group == row.group]
        failed = sum(not outcome.passed for outcome in kept)
        if row.failed != failed or len(kept) - failed > row.passed or not row.passed + row.failed:
            name = " ".join(filter(None, row.group))
            raise CorruptReport(f"{path}: the numbers of its row {name} are not those of its outcomes")
    if stray := next((outcome for outcome in report.outcomes if outcome.group not in rows), None):
        raise CorruptReport(f"{path}: no row of its cases counts {stray.name}")
    cases = sum(row.passed + row.failed for row in report.cases)
    failed = sum(not result.passed for result in results)
    if report.totals != Totals(cases=cases, races=len(report.races), failed=failed):
        raise CorruptReport(f"{path}: its totals are not those of its cases and races")
    proven = failed == 0 and any(row.section in report.operators for row in report.cases)
    if report.passed != proven:
        raise CorruptReport(
            f"{path}: has passed={report.passed} with {failed} of {cases + len(report.races)} checks failed"
        )
