"""The kernel table: one typed row for each compiled kernel. Nothing else decides what is built."""

from __future__ import annotations

import difflib
import fnmatch
from typing import TYPE_CHECKING

from kernels.errors import UnknownVariantError
from kernels.table.combine import COMBINE
from kernels.table.fwd_portable import FWD_PORTABLE
from kernels.table.fwd_sm90 import FWD_SM90
from kernels.table.variant import Variant

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["VARIANTS", "Variant", "select"]

VARIANTS: tuple[Variant, ...] = (*FWD_SM90, *FWD_PORTABLE, *COMBINE)


def select(patterns: Sequence[str] = ()) -> tuple[Variant, ...]:
    """Return the rows whose name matches any of the glob patterns, in table order; all rows for no pattern.

    Raises:
        UnknownVariantError: A pattern matches nothing; the message names the nearest rows.
    """
    names = [variant.name for variant in VARIANTS]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.3) or names[:3]
            raise UnknownVariantError(
                f"variant: got {pattern!r}, which matches no row of the table; nearest: {', '.join(near)}"
            )
    return tuple(
        variant
        for variant in VARIANTS
        if not patterns or any(fnmatch.fnmatchcase(variant.name, pattern) for pattern in patterns)
    )
