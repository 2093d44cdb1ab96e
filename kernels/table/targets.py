"""The GPUs that the portable kernels are compiled for, one of each size of shared memory and generation."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """A compile target and the limit that its kernels keep.

    Attributes:
        name: As part of a variant's name: `sm80`, `ptx80`.
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
    # For newer GPUs, whose shared memory is not known here: the smallest size fits all of them.
    Target("ptx80", "80", "ptx", SMALL_SMEM),
)
