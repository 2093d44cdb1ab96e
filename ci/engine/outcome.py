"""What every engine does around a job: its variables, and the one line that says why it failed."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from ci.errors import BuildFailed
from ci.files import write_atomically
from ci.project import ROOT

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ci.engine.cache import Cache

_OUR_ERROR = re.compile(r"[\w.]+: error: (.*)")
"""The error line of this tree's own programs; its text names the kernel or the library."""


def job_environment(cache: Cache) -> dict[str, str]:
    """Return the variables of the program that runs a job (:mod:`ci.engine.job`)."""
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "ZIG_GLOBAL_CACHE_DIR": str(cache.folder.parent / "zig"),  # zig's runtime is compiled once
    }


def reason_of(output: Sequence[str], name: str) -> str:
    """Return why a job failed, in one line: its own error, and the compiler's first one."""
    for number, line in enumerate(output):
        if ours := _OUR_ERROR.match(line):
            compilers = next((line for line in output[number + 1 :] if "error:" in line), "")
            return f"{ours[1]} {compilers}".rstrip()
    return f"{name}: its job failed without a message"


def build_failed(reason: str, status: int, output: str, log: Path) -> BuildFailed:
    """Return the error of a failed job, whose whole output goes into a file.

    Args:
        reason: one line.
        status: the exit code of the job, which is kept if it is one of this tree's errors.
        output: what the job wrote.
        log: the file.

    Raises:
        DiskFull: there is no room for the file.
    """
    write_atomically(log, (output.rstrip("\n") + "\n").encode())
    code = status if 10 <= status < 64 else BuildFailed.exit_code
    return BuildFailed(f"{reason} (full output: {log})", code)
