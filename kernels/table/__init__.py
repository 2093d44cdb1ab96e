"""The kernel table: one typed variant for each compiled kernel. Nothing else decides what is built."""

from __future__ import annotations

import difflib
import fnmatch
from typing import TYPE_CHECKING

from kernels.errors import UnknownVariantError
from kernels.table.families import gather_families
from kernels.table.variant import Variant

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["CANDIDATES", "VARIANTS", "Variant", "select", "variant_named"]

_FAMILIES = gather_families()
VARIANTS: tuple[Variant, ...] = tuple(variant for family in _FAMILIES for variant in family.variants)
"""Every kernel that is shipped."""
CANDIDATES: tuple[Variant, ...] = tuple(variant for family in _FAMILIES for variant in family.candidates)
"""Kernels that `farm tune` times against those."""


def select(patterns: Sequence[str] = ()) -> tuple[Variant, ...]:
    """Return the variants whose name matches any of the glob patterns, in table order; all for no pattern.

    Raises:
        UnknownVariantError: A pattern matches nothing; the message names the nearest variants.
    """
    names = [variant.name for variant in VARIANTS]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            near = ", ".join(_nearest(pattern, names))
            raise UnknownVariantError(
                f"variant: got {pattern!r}, which matches no variant of the table; nearest: {near}"
            )
    return tuple(
        variant
        for variant in VARIANTS
        if not patterns or any(fnmatch.fnmatchcase(variant.name, pattern) for pattern in patterns)
    )


def _nearest(pattern: str, names: Sequence[str]) -> list[str]:
    """Return three names that resemble a pattern; a short pattern is compared with their beginnings."""

    def unlike(name: str) -> float:
        return -difflib.SequenceMatcher(None, pattern, name[: len(pattern)]).ratio()

    return difflib.get_close_matches(pattern, names, n=3, cutoff=0.3) or sorted(names, key=unlike)[:3]


def variant_named(name: str) -> Variant:
    """Return the variant of that name, of the table or of the candidates.

    Raises:
        UnknownVariantError: There is none; the message names the nearest variants of the table.
    """
    for candidate in CANDIDATES:
        if candidate.name == name:
            return candidate
    return select([name])[0]
