"""One job of the build graph: run its command, measure what it took, and store its files in the cache.

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
"""The file in which every job's object keeps what the job took."""


@dataclass(frozen=True)
class Usage:
    """What a job took: processor time in seconds, and the memory of its largest process in bytes."""

    cpu_seconds: float
    memory_bytes: int


@dataclass(frozen=True)
class Cost:
    """What several jobs took together, and which of them was the largest."""

    cpu_seconds: float
    largest: str
    memory_bytes: int


def total_cost(jobs: Iterable[tuple[str, Mapping[str, bytes]]]) -> Cost:
    """Add up jobs, each a name and its files; what came from the cache counts as when it was made."""
    usages = {name: Usage(**json.loads(files[USAGE])) for name, files in jobs}
    largest = max(usages, key=lambda name: usages[name].memory_bytes)
    return Cost(sum(usage.cpu_seconds for usage in usages.values()), largest, usages[largest].memory_bytes)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command that writes files into a folder, and store them as one object if it ends well."""
    parser = argparse.ArgumentParser(prog="python -m ci.engine.job", description=main.__doc__)
    parser.add_argument("--cache", type=Path, required=True, help="the folder of the cache")
    parser.add_argument("--key", required=True, help="the digest of what makes the files")
    parser.add_argument("--out", type=Path, required=True, help="the folder that the command fills")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="the command")
    options = parser.parse_args(arguments)
    status = subprocess.run(options.command, check=False).returncode
    if status != 0:
        return status if status > 0 else 128 - status
    taken = resource.getrusage(resource.RUSAGE_CHILDREN)
    usage = Usage(round(taken.ru_utime + taken.ru_stime, 3), taken.ru_maxrss * 1024)
    files = {path.name: path.read_bytes() for path in sorted(options.out.iterdir())}
    try:
        Cache(options.cache).store(options.key, {**files, USAGE: json.dumps(asdict(usage)).encode()})
    except FarmError as error:
        sys.stderr.write(f"farm: error: {error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
