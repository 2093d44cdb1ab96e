"""The farm's errors: the command line prints one as a single line on stderr and exits with its code."""

from __future__ import annotations


class FarmError(Exception):
    """Base of the errors that an operator can act on.

    The text names the argument or file, the value it has and the value it should have.
    """

    exit_code = 1


class UnknownToolkit(FarmError):
    """The matrix does not list the toolkit."""

    exit_code = 11


class UnknownSm(FarmError):
    """The matrix does not list the SM."""

    exit_code = 12


class ToolkitUnavailable(FarmError):
    """A toolkit wheel could not be downloaded, or its sha256 is not the pinned one."""

    exit_code = 13


class UnknownCell(FarmError):
    """The matrix does not list the cell, artefact or platform, or the text is not the name of one."""

    exit_code = 16


class CorruptObject(FarmError):
    """A cached object is truncated, altered or stored under another key."""

    exit_code = 18


class AuditFailed(FarmError):
    """A wheel failed at least one check of the audit."""

    exit_code = 19


class CorruptWheel(FarmError):
    """A wheel cannot be read, or its contents do not match its RECORD."""

    exit_code = 20


class CorruptReport(FarmError):
    """A validation report cannot be read, was altered or contradicts itself."""

    exit_code = 21


class ReportMismatch(FarmError):
    """No wheel has the sha256 in a validation report, or no report allows the required channel."""

    exit_code = 22


class ValidationFailed(FarmError):
    """A wheel failed a check on a GPU."""

    exit_code = 23


class NoGpu(FarmError):
    """Validation and tuning need a GPU, and torch cannot use one here."""

    exit_code = 24


class UnsafeSite(FarmError):
    """The farm must not write to the site folder."""

    exit_code = 25


class DiskFull(FarmError):
    """The disk of a folder has no room left."""

    exit_code = 26


class VerifyFailed(FarmError):
    """A site differs from its manifest, or an installer could not install from it."""

    exit_code = 27


class WheelConflict(FarmError):
    """A wheel has the name of a published one but other bytes; published wheels never change."""

    exit_code = 29


class BuildFailed(FarmError):
    """A program of the build failed; ``exit_code`` is the program's own where that has a meaning."""

    exit_code = 30

    def __init__(self, message: str, exit_code: int = exit_code) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class UnknownWheel(FarmError):
    """The index does not list the wheel."""

    exit_code = 31


class UnknownTask(FarmError):
    """No tuning task has that name."""

    exit_code = 33


class InvalidVariable(FarmError):
    """An environment variable has a value that it cannot have."""

    exit_code = 40


class OtherReportSchema(CorruptReport):
    """A validation report was written by another version of this tree."""


class BadSignature(FarmError):
    """A validation report is signed by an unknown key, or its signature is not its own."""

    exit_code = 35


class UnfitWheel(FarmError):
    """A wheel must not be published: of another project, wrongly named or tagged, or its audit failed."""

    exit_code = 36


class PortTaken(FarmError):
    """A site cannot be served at the address that was asked for."""

    exit_code = 37


class StoreFailed(FarmError):
    """The store of a site cannot be reached, refuses a request, or does not answer in time."""

    exit_code = 38


class StoreConflict(FarmError):
    """Another publisher stores other bytes under the same name, or changes the site again and again."""

    exit_code = 39


class SnapshotExists(FarmError):
    """A frozen snapshot of that date holds something else."""

    exit_code = 41


class RacesAlone(FarmError):
    """A validation report holds races only, so that it proves no wheel."""

    exit_code = 34


class LimitBroken(FarmError):
    """A unit of a build took more time or memory than the matrix allows it."""

    exit_code = 45


class ClusterUnavailable(FarmError):
    """A cluster cannot be reached, refuses the token, runs other versions or has lost its nodes."""

    exit_code = 46


class UnfitMatrix(FarmError):
    """The matrix is valid, but what was asked for cannot be made from it."""

    exit_code = 47


class IndexUnavailable(FarmError):
    """An index of packages cannot be read."""

    exit_code = 49


class SlowerThanBefore(FarmError):
    """A wheel is slower than an earlier one on the same GPU."""

    exit_code = 50


class NotJudged(FarmError):
    """A gate could not compare what it was given, so that nothing is proven or disproven."""

    exit_code = 51


class EmulationFailed(FarmError):
    """The host part of a wheel failed a check in an emulator."""

    exit_code = 52


def described(error: OSError) -> str:
    """Return an error of the system as a message that begins with the file, without the number."""
    reason = error.strerror or str(error)
    return reason if error.filename is None else f"{error.filename}: {reason}"
