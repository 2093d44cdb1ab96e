"""Runs one job: executes its command within its limits, measures it and stores its files in the cache.

``python -m ci.engine.job --name NAME --cache DIR --key KEY --out DIR --seconds S --memory BYTES COMMAND...``
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ci.engine.cache import Cache
from ci.engine.cost import USAGE
from ci.engine.process import Limits, run_limited, signal_name
from ci.errors import BuildFailed, FarmError, LimitBroken

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ci.engine.process import Ended


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command that writes files into a folder, and store them as one object if it succeeds."""
    parser = argparse.ArgumentParser(prog="python -m ci.engine.job", description=main.__doc__)
    parser.add_argument("--name", required=True, help="what messages call the job")
    parser.add_argument("--cache", type=Path, required=True, help="the folder of the cache")
    parser.add_argument("--key", required=True, help="the digest of all inputs of the files")
    parser.add_argument("--out", type=Path, required=True, help="the folder that the command writes into")
    parser.add_argument("--seconds", type=float, required=True, help="the time limit, by the clock")
    parser.add_argument("--memory", type=int, required=True, help="the memory limit, in bytes")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="the command")
    options = parser.parse_args(arguments)
    try:
        ended = run_limited(options.command, Limits(options.seconds, options.memory))
        if not ended.broken and ended.status > 0:
            return ended.status  # the command has said why
        _require_success(options.name, ended)
        files = {path.name: path.read_bytes() for path in sorted(options.out.iterdir())}
        usage = json.dumps(asdict(ended.usage)).encode()
        Cache(options.cache).store(options.key, {**files, USAGE: usage})
    except FarmError as error:
        sys.stderr.write(f"farm: error: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


def _require_success(name: str, ended: Ended) -> None:
    """Raise an error if the command broke a limit or was ended by a signal."""
    if ended.broken:
        used = f"{ended.usage.cpu_seconds:.1f} s of processor time"
        memory = f"{ended.usage.memory_bytes / 1e9:.2f} GB of memory"
        raise LimitBroken(
            f"{name}: ended after {ended.seconds:.1f} s, with {used} and {memory}: {ended.broken}"
        )
    if ended.status < 0:
        raise BuildFailed(f"{name}: its compiler was ended by {signal_name(-ended.status)}")


if __name__ == "__main__":
    sys.exit(main())
