"""The farm's errors: each ends the command with one line on stderr and its own exit code.

Only the standard library is imported here, so that ``validate`` can run on a machine that has
nothing but Python, torch and a GPU.
"""

from __future__ import annotations


class FarmError(Exception):
    """An error the operator can act on; the text names what was wrong, with what, and what it should be."""

    exit_code = 1


class UnknownToolkit(FarmError):
    """A toolkit that the matrix does not list."""

    exit_code = 11


class UnknownSm(FarmError):
    """An SM that the matrix does not list."""

    exit_code = 12


class ToolkitUnavailable(FarmError):
    """A toolkit wheel that could not be fetched, or whose bytes are not the pinned ones."""

    exit_code = 13


class UnknownCell(FarmError):
    """A cell, artefact or platform that the matrix does not list, or text that is no cell."""

    exit_code = 16


class CorruptObject(FarmError):
    """A cached object that does not hold the bytes it was stored with."""

    exit_code = 18


class AuditFailed(FarmError):
    """A wheel that breaks at least one rule of the audit."""

    exit_code = 19


class CorruptWheel(FarmError):
    """A wheel that cannot be read, or whose contents do not match its RECORD."""

    exit_code = 20


class CorruptReport(FarmError):
    """A validation report that cannot be read."""

    exit_code = 21


class ReportMismatch(FarmError):
    """A validation report that speaks of another wheel."""

    exit_code = 22


class ValidationFailed(FarmError):
    """A wheel that failed a correctness case on a GPU."""

    exit_code = 23


class NoGpu(FarmError):
    """Validation or tuning was asked for where no GPU can be used."""

    exit_code = 24


class UnsafeSite(FarmError):
    """A site folder that the farm must not write to."""

    exit_code = 25


class DiskFull(FarmError):
    """A folder whose disk has no room left."""

    exit_code = 26


class VerifyFailed(FarmError):
    """A published site from which an installer could not install."""

    exit_code = 27


class WheelConflict(FarmError):
    """Two wheels of one name with different bytes; what is published never changes."""

    exit_code = 29


class BuildFailed(FarmError):
    """A program of the build that failed; its own exit code is passed on where it has a meaning."""

    exit_code = 30

    def __init__(self, message: str, exit_code: int = exit_code) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class UnknownWheel(FarmError):
    """A wheel that the index does not list."""

    exit_code = 31


class UnknownCase(FarmError):
    """A case of the tuning that has no candidates."""

    exit_code = 33


class RacesAlone(FarmError):
    """A validation report of nothing but races, given as a proof."""

    exit_code = 34
