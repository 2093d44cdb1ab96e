"""How slow this machine is at the moment, for bars of processor time.

Two virtual processors that are threads of one core halve each other's speed: without a correction, a bar in
seconds would measure the neighbour.
"""

from __future__ import annotations

import time

REFERENCE_S = 0.075
"""Processor time of `_work` on the machine that the bars were set on, undisturbed."""


def _work() -> int:
    total = 0
    for number in range(2_000_000):
        total += number
    return total


def slowness() -> float:
    """Return by how much this machine is slower than the reference right now; 1 when it is not."""
    start = time.process_time()
    _work()
    return max(1.0, (time.process_time() - start) / REFERENCE_S)
