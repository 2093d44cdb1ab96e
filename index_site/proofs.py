"""What reports prove of a wheel: the summaries in the manifest. The site serves the reports themselves."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from index_site.record import Record, Sha256
from matrix.serving import Code  # noqa: TC001 (pydantic reads the annotations)

Voucher = Literal["tree", "signature", "site", ""]
"""Who vouches for a report: the source tree that holds it, a signature, this site; nobody."""
ReportPath = Annotated[str, Field(pattern=r"^reports/[0-9a-f]{64}\.json$")]


class ReportSummary(Record):
    """What the summaries of all reports have; the site serves the report itself at ``path``.

    Attributes:
        passed: whether every check passed.
        quick: whether only a selection of the checks ran.
        failure: the first failed check with its reason; empty if none failed.
        gap: what of the wheel the checks did not run or cannot prove; empty if there is nothing.
        voucher: who vouches for the report.
        signed_by: name of the key that signed it; empty if it is not signed.
    """

    path: ReportPath
    sha256: Sha256
    passed: bool
    quick: bool
    failure: str
    gap: str
    voucher: Voucher
    signed_by: str

    @property
    def counts(self) -> bool:
        """Whether a wheel may go to ``stable`` by it: it passed, was not quick, has no gap and a voucher."""
        return self.passed and not self.quick and not self.gap and bool(self.voucher)


class PeerSpeed(Record):
    """The speed of another implementation in a race: its TFLOP/s, and how many times as fast ours was."""

    tflops: float
    ratio: float


class Proof(ReportSummary):
    """Summary of a validation report: the whole wheel ran on a GPU.

    Attributes:
        worst_error_ratio: largest error of a case, as a fraction of the allowed error; None without errors.
        races: shape -> time of cuDNN's attention divided by ours; 1.2 is 1.2 times as fast.
        tflops: shape -> TFLOP/s of our kernel, for the same shapes.
        peers: implementation (``cudnn``, ``fa3``, ``flash``) -> shape -> its speed, for the same shapes.
        sm: SM of the GPU, such as ``90``.
        proven: operator -> the codes whose every correctness case passed.
    """

    gpu: str
    driver: str
    torch: str
    cases_passed: Annotated[int, Field(ge=0)]
    cases_total: Annotated[int, Field(ge=0)]
    worst_error_ratio: float | None
    races: dict[str, float]
    tflops: dict[str, float]
    peers: dict[str, dict[str, PeerSpeed]] = Field(default_factory=dict)
    sm: str
    proven: dict[str, tuple[Code, ...]]

    def proves(self, op: str, code: Code) -> bool:
        """Return whether it counts, and ran kernels of this operator and code."""
        return self.counts and code in self.proven.get(op, ())


class Emulation(ReportSummary):
    """Summary of an emulation report: the host part of a wheel ran on an emulated machine, and no kernel.

    Attributes:
        emulator: the program, as it names itself.
        machine: the emulated processor.
    """

    emulator: str
    machine: str
    python: str
    torch: str
    checks_passed: Annotated[int, Field(ge=0)]
    checks_total: Annotated[int, Field(ge=0)]
