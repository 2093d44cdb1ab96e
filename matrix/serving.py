"""What serves a GPU: the same rule by which the runtime chooses among the kernels of a wheel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kernels.table.variant import Variant

Kind = Literal["exact", "portable", "ptx"]
# By the number that a kernel pack has for it; the runtime prefers the first.
KINDS: tuple[Kind, ...] = ("exact", "portable", "ptx")
NEWER = "newer"
"""The name of all GPUs that came after the last that the matrix knows."""


def compiled_for(variant: Variant) -> tuple[int, Kind]:
    """Return the SM that a row is compiled for, and what that makes of it."""
    if variant.code == "ptx":
        return int(variant.sm), "ptx"
    return int(variant.sm.rstrip("af")), "portable" if variant.sm.isdigit() else "exact"


def serving_kind(sm: str, kernels: Iterable[tuple[int, Kind]]) -> Kind | None:
    """Return the kind of kernels that serves the GPUs of an SM; None if none does.

    Args:
        sm: its name, such as ``90``, or ``newer``.
        kernels: the SM and the kind of each kernel that there is.
    """
    kinds = {kind for number, kind in kernels if _runs(sm, number, kind)}
    return next((kind for kind in KINDS if kind in kinds), None)


def _runs(sm: str, number: int, kind: Kind) -> bool:
    if sm == NEWER:
        return kind == "ptx"
    major, minor = divmod(int(sm), 10)
    if kind == "exact":
        return int(sm) == number
    return int(sm) >= number if kind == "ptx" else major == number // 10 and minor >= number % 10
