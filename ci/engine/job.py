"""Runs one job: executes its command, measures its resource usage and stores its files in the cache.

``python -m ci.engine.job --cache DIR --key KEY --out DIR COMMAND...``
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ci.engine.cache import Cache
from ci.errors import FarmError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

USAGE = "usage.json"
"""The file with the resource usage, in the cached object of every job."""


@dataclass(frozen=True)
class Usage:
    """Resource usage of a job: processor time in seconds, peak memory of its largest process in bytes."""

    cpu_seconds: float
    memory_bytes: int


@dataclass(frozen=True)
class Cost:
    """Resource usage of several jobs: total processor time, and the name and memory of the largest job."""

    cpu_seconds: float
    largest: str
    memory_bytes: int


def total_cost(jobs: Iterable[tuple[str, Mapping[str, bytes]]]) -> Cost:
    """Add up jobs, each a name and its files; a cached job counts with the usage of its only run."""
    usages = {name: Usage(**json.loads(files[USAGE])) for name, files in jobs}
    largest = max(usages, key=lambda name: usages[name].memory_bytes)
    return Cost(sum(usage.cpu_seconds for usage in usages.values()), largest, usages[largest].memory_bytes)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command that writes files into a folder, and store them as one object if it succeeds."""
    parser = argparse.ArgumentParser(prog="python -m ci.engine.job", description=main.__doc__)
    parser.add_argument("--cache", type=Path, required=True, help="the folder of the cache")
    parser.add_argument("--key", required=True, help="the digest of all inputs of the files")
    parser.add_argument("--out", type=Path, required=True, help="the folder that the command writes into")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="the command")
    options = parser.parse_args(arguments)
    status = subprocess.run(options.command, check=False).returncode
    if status != 0:
        return status if status > 0 else 128 - status
    usage_of_children = resource.getrusage(resource.RUSAGE_CHILDREN)
    usage = Usage(
        round(usage_of_children.ru_utime + usage_of_children.ru_stime, 3), usage_of_children.ru_maxrss * 1024
    )
    files = {path.name: path.read_bytes() for path in sorted(options.out.iterdir())}
    try:
        Cache(options.cache).store(options.key, {**files, USAGE: json.dumps(asdict(usage)).encode()})
    except FarmError as error:
        sys.stderr.write(f"farm: error: {error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
