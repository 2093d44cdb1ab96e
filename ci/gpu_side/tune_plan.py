"""The plan of a tuning: the variants that were compiled for it, and the calls to time them with."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ci.errors import FarmError

if TYPE_CHECKING:
    from pathlib import Path

PLAN = "plan.json"
_WINDOW = 1024
_CALLS: dict[str, tuple[tuple[bool, bool], ...]] = {
    "full": ((False, False),),
    "causal": ((True, False),),
    "local": ((True, True),),
    "any": ((False, False), (True, False)),
}
"""Mask of a variant -> the calls to time it with: whether causal, and whether with a window."""


@dataclass(frozen=True)
class Contender:
    """A variant of the plan: of the table, with the sequence length it starts at, or a candidate."""

    name: str
    pack: Path
    """A pack that holds this variant only."""
    min_seqlen_q: int | None
    """The shortest seqlen_q that the table uses the variant for; None for a candidate."""
    macros: dict[str, str]


@dataclass(frozen=True)
class Task:
    """The variants that compete for the same calls."""

    name: str
    op: str
    dtype: str
    head_dim: int
    head_dim_v: int
    mask: str
    variants: tuple[Contender, ...]

    def present(self, seqlen: int) -> Contender:
        """Return the variant that the table uses for a sequence length."""
        starts = {found.min_seqlen_q: found for found in self.variants if found.min_seqlen_q is not None}
        return starts[max(start for start in starts if start <= seqlen)]


def read_plan(folder: Path) -> tuple[Task, ...]:
    """Read the plan of a prepared folder.

    Raises:
        FarmError: the folder holds no plan, or one that cannot be read.
    """
    try:
        document = json.loads((folder / PLAN).read_text(encoding="utf-8"))
        tasks = []
        for task in document["tasks"]:
            variants = (Contender(**{**found, "pack": folder / found["pack"]}) for found in task["variants"])
            tasks.append(Task(**{**task, "variants": tuple(variants)}))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FarmError(f"--run {folder}: holds no plan of `farm tune --prepare`: {error}") from error
    return tuple(tasks)


def calls_of(mask: str, seqlen: int) -> tuple[tuple[bool, int | None], ...]:
    """Return the calls to time a mask with, at one length: whether causal, and the window or None."""
    # A window that covers every key is dropped by the call, which then needs a variant of another mask.
    window = min(_WINDOW, seqlen // 2)
    return tuple((causal, window if windowed else None) for causal, windowed in _CALLS[mask])
