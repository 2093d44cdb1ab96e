"""The matrix's own error."""

from __future__ import annotations


class MatrixError(Exception):
    """A matrix file that cannot be read, contradicts itself or leaves a cell unexplained.

    The text starts with the place, such as ``toolkit[1].wheels[0].sha256``.
    """

    exit_code = 32


class CellError(ValueError):
    """Text that names no cell or artefact."""
