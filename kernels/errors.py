"""Errors of the kernel build. Each kind has its own process exit code."""

from __future__ import annotations

from typing import ClassVar


class KernelsError(Exception):
    """Base of every error that this package raises on purpose."""

    exit_code: ClassVar[int] = 1


class UnknownVariantError(KernelsError):
    """A variant name or pattern that the table does not hold."""

    exit_code = 10


class ToolkitMissingError(KernelsError):
    """A folder that lacks a part of the CUDA toolkit."""

    exit_code = 13


class CompileError(KernelsError):
    """The compiler refused a variant."""

    exit_code = 14


class GateError(KernelsError):
    """A variant compiled, but its machine code breaks a rule that fast kernels must keep."""

    exit_code = 15


class CorruptPackError(KernelsError):
    """A kernel pack that is truncated, altered or not a pack."""

    exit_code = 17
