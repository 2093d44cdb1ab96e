"""The GPUs that the portable kernels are compiled for, grouped by what a multiprocessor has."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """What the compiler is asked for.

    Attributes:
        name: The part of a kernel's name: `sm80`, `ptx80`.
        sm: Compute capability, as `-arch` takes it.
        code: `cubin` or `ptx`.
        smem_bytes: Shared memory that one block may have.
    """

    name: str
    sm: str
    code: str
    smem_bytes: int


SMALL_SMEM = 99 * 1024
MEDIUM_SMEM = 163 * 1024
LARGE_SMEM = 227 * 1024

PORTABLE_TARGETS: tuple[Target, ...] = (
    Target("sm80", "80", "cubin", MEDIUM_SMEM),
    Target("sm86", "86", "cubin", SMALL_SMEM),
    Target("sm89", "89", "cubin", SMALL_SMEM),
    Target("sm90", "90", "cubin", LARGE_SMEM),
    Target("sm100", "100", "cubin", LARGE_SMEM),
    Target("sm120", "120", "cubin", SMALL_SMEM),
    # For GPUs that came later: it has to fit the least of them.
    Target("ptx80", "80", "ptx", SMALL_SMEM),
)
