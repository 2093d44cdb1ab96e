"""How long the rest of a run takes: from the measured cost of its jobs, and its pace so far."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ci.engine.cost import Costs
    from ci.progress import Reporter


@dataclass
class Forecast:
    """Reports each finished job of a run as a step, with the time that is left.

    Its clock is one that nobody can set.
    """

    names: Sequence[str]
    """The jobs of the run."""
    costs: Costs
    progress: Reporter
    clock: Callable[[], float] = time.monotonic
    _started: float = field(init=False)
    _finished: list[str] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self._started = self.clock()

    def finish(self, name: str) -> None:
        """Report that a job has ended, whether or not it succeeded."""
        self._finished.append(name)
        text = f"compile {name}"
        if len(self._finished) < len(self.names):
            text += f", {in_words(self._seconds_left())} left"
        self.progress.step(len(self._finished), len(self.names), text)

    def _seconds_left(self) -> float:
        done = sum(map(self.costs.seconds, self._finished))
        whole = sum(map(self.costs.seconds, self.names))
        return (self.clock() - self._started) * (whole - done) / done


def in_words(seconds: float) -> str:
    """Return a length of time as people say it: ``20 s``, ``3 min``, ``1 h 05 min``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"
