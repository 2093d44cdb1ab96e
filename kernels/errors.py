"""Errors of the kernel table and of the kernel build, each with the process exit code that it leads to."""

from __future__ import annotations

from typing import ClassVar


class KernelsError(Exception):
    """Base of every error that this package raises on purpose."""

    exit_code: ClassVar[int] = 1


class UnknownVariantError(KernelsError):
    """The table has no variant of that name or pattern."""

    exit_code = 10


class UnknownDTypeError(KernelsError):
    """A name or number of an element type that `kernels/table/dtypes.py` does not list."""


class ToolkitMissingError(KernelsError):
    """A folder lacks a part of the CUDA toolkit."""

    exit_code = 13


class CompileError(KernelsError):
    """The compiler refused a variant."""

    exit_code = 14


class GateError(KernelsError):
    """A variant compiled, but its machine code breaks a rule that fast kernels must keep."""

    exit_code = 15


class PackLimitError(KernelsError):
    """A variant does not fit into a record of the kernel pack."""


class CorruptPackError(KernelsError):
    """A file is no kernel pack, or one that is truncated or altered."""

    exit_code = 17
