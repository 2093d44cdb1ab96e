"""The measured cost of jobs: stored with each object, added up for a build."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ci.engine.process import Usage

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

USAGE = "usage.json"
"""The file with the resource usage, in the cached object of every job."""


@dataclass(frozen=True)
class Cost:
    """Resource usage of several jobs: total processor time, and the name and memory of the largest job."""

    cpu_seconds: float
    largest: str
    memory_bytes: int


def usage_of(files: Mapping[str, bytes]) -> Usage:
    """Return what the job took that made these files; the usage of its only run if they were cached."""
    return Usage(**json.loads(files[USAGE]))


def total_cost(jobs: Iterable[tuple[str, Mapping[str, bytes]]]) -> Cost:
    """Add up jobs, each a name and its files."""
    usages = {name: usage_of(files) for name, files in jobs}
    largest = max(usages, key=lambda name: usages[name].memory_bytes)
    return Cost(sum(usage.cpu_seconds for usage in usages.values()), largest, usages[largest].memory_bytes)
