"""The measured cost of jobs: stored with each object, kept by name for the next run, added up for a build."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from ci.engine.process import Usage
from ci.files import write_atomically

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from ci.progress import Reporter

USAGE = "usage.json"
"""The file with the resource usage, in the cached object of every job."""
_UNMEASURED_BYTES = 1_000_000_000
"""Memory of a job that was never measured; the largest compile stays below it."""
_MARGIN = 1.25
"""The memory of a measured job is taken this many times, for its sources may have changed since."""


@dataclass(frozen=True)
class Cost:
    """Resource usage of several jobs: total processor time, and the name and memory of the largest job."""

    cpu_seconds: float
    largest: str
    memory_bytes: int


@dataclass(frozen=True)
class Costs:
    """What the jobs took when they ran last, by their names; the estimate for their next run."""

    measured: Mapping[str, Usage]

    def updated(self, newer: Mapping[str, Usage]) -> Costs:
        """Return these costs with newer measurements."""
        return Costs({**self.measured, **newer})

    def seconds(self, name: str) -> float:
        """Return the processor time of a job, or the mean of all if it was never measured."""
        if name in self.measured:
            return self.measured[name].cpu_seconds
        return statistics.fmean(usage.cpu_seconds for usage in self.measured.values()) if self.measured else 1

    def memory(self, name: str) -> int:
        """Return the bytes of memory to keep free for a job."""
        if name in self.measured:
            return int(self.measured[name].memory_bytes * _MARGIN)
        return _UNMEASURED_BYTES

    def longest_first(self, names: Iterable[str]) -> list[str]:
        """Order jobs, those first that were never measured: one of them may be the longest."""
        return sorted(names, key=lambda name: (name in self.measured, -self.seconds(name)))

    def parallel_jobs(self, names: Sequence[str], *, processors: int, memory: int) -> int:
        """Return how many jobs to run at once, so that any of them fit into ``memory`` bytes together."""
        together = 0
        for count, size in enumerate(sorted(map(self.memory, names), reverse=True)):
            together += size
            if count >= processors or together > memory:
                return max(1, count)
        return max(1, len(names))


def usage_of(files: Mapping[str, bytes]) -> Usage:
    """Return what the job took that made these files; the usage of its only run if they were cached."""
    return Usage(**json.loads(files[USAGE]))


def total_cost(jobs: Iterable[tuple[str, Mapping[str, bytes]]]) -> Cost:
    """Add up jobs, each a name and its files."""
    usages = {name: usage_of(files) for name, files in jobs}
    largest = max(usages, key=lambda name: usages[name].memory_bytes)
    return Cost(sum(usage.cpu_seconds for usage in usages.values()), largest, usages[largest].memory_bytes)


def read_costs(path: Path, progress: Reporter) -> Costs:
    """Read the costs that earlier runs kept; a file that is damaged is none, with a warning."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return Costs(
            {
                name: Usage(float(usage["cpu_seconds"]), int(usage["memory_bytes"]))
                for name, usage in document.items()
            }
        )
    except FileNotFoundError:
        return Costs({})
    except (ValueError, TypeError, KeyError, AttributeError):
        progress.warn(f"{path}: should be the costs of earlier compiles, is damaged; it is written again")
        return Costs({})


def keep_costs(path: Path, costs: Costs) -> None:
    """Write costs for :func:`read_costs`.

    Raises:
        DiskFull: there is no room.
    """
    document = {name: asdict(usage) for name, usage in sorted(costs.measured.items())}
    write_atomically(path, (json.dumps(document, indent=1) + "\n").encode())
