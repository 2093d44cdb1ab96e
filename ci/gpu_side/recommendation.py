"""Derives from timings which variants the kernel table should hold, and from which length each serves."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ci.gpu_side.tune_plan import Task

MARGIN = 1.01
"""The speed-up over the present variant that a change needs; two runs differ by less."""


@dataclass(frozen=True)
class Measured:
    """One variant under one setting.

    Attributes:
        setting: name of the setting.
        seqlen: sequence length of the setting.
        variant: name of the variant.
        ms: milliseconds a call; None if it was not timed.
        ratio: time of the present variant over this one's; None if one of the two was not timed.
        failures: errors in the output.
    """

    setting: str
    seqlen: int
    variant: str
    ms: float | None
    ratio: float | None
    failures: tuple[str, ...]


def ratios_of(measured: Sequence[Measured]) -> dict[int, dict[str, float]]:
    """Return length -> variant -> ratio, the geometric mean over the settings of one length.

    A variant with a wrong output at any length is left out.
    """
    wrong = {result.variant for result in measured if result.failures}
    gathered: dict[int, dict[str, list[float]]] = {}
    for result in measured:
        if result.ratio is not None and result.variant not in wrong:
            gathered.setdefault(result.seqlen, {}).setdefault(result.variant, []).append(result.ratio)
    return {
        seqlen: {name: statistics.geometric_mean(values) for name, values in ratios.items()}
        for seqlen, ratios in gathered.items()
    }


def recommend(task: Task, ratios: Mapping[int, Mapping[str, float]]) -> tuple[tuple[str, int], ...]:
    """Return the variants that should serve a task, each with its ``min_seqlen_q``.

    Args:
        task: has the present variant of each length, which stays unless another is faster by ``MARGIN``.
        ratios: length -> variant -> time of that length's present variant over the variant's.
    """
    best: list[tuple[str, int]] = []
    for seqlen in sorted(ratios):
        name = max(ratios[seqlen], key=lambda variant: ratios[seqlen][variant], default="")
        wins = bool(name) and ratios[seqlen][name] >= MARGIN
        best.append((name if wins else task.present(seqlen).name, seqlen))
    changes = [best[0], *(right for left, right in pairwise(best) if left[0] != right[0])] if best else []
    starts = {found.name: found.min_seqlen_q for found in task.variants}
    return tuple(
        (name, 0 if number == 0 else _start(starts.get(name), seqlen, ratios))
        for number, (name, seqlen) in enumerate(changes)
    )


def _start(present: int | None, seqlen: int, ratios: Mapping[int, object]) -> int:
    """Return the start of a variant that wins from ``seqlen`` on: the table's, if just below ``seqlen``."""
    shorter = max(other for other in ratios if other < seqlen)
    return present if present is not None and shorter < present <= seqlen else seqlen
