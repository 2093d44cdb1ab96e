"""Selects names by shell patterns, and suggests the nearest ones for an unknown name."""

from __future__ import annotations

import difflib
import fnmatch
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def nearest(name: str, names: Iterable[str]) -> str:
    """Return the end of an error message: which of ``names`` are nearest to ``name``."""
    known = list(names)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5) or known[:3]
    return f"the nearest {'are' if len(close) > 1 else 'is'} {', '.join(close)}"


def matching(names: Sequence[str], pattern: str) -> list[str]:
    """Return the names that match ``pattern`` (``*``, ``?``, ``[…]``), case-sensitively."""
    return [name for name in names if fnmatch.fnmatchcase(name, pattern)]
