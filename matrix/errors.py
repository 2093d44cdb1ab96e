"""The errors of this package."""

from __future__ import annotations


class MatrixError(Exception):
    """A matrix file cannot be read, contradicts itself, or leaves a cell without artefact and reason.

    The text starts with the key, such as ``toolkit[1].wheels[0].sha256``, and names the value it has and the
    value it should have.
    """

    exit_code = 32


class CellError(ValueError):
    """The text is not the name of a cell or an artefact."""
