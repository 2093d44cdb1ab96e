"""Runs a check in a forked child: each has a fresh copy of what is loaded, and a crash costs nobody else."""

from __future__ import annotations

import os
import select
import signal
import time
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

TIME_LIMIT_S = 300
"""Most seconds of one check: five times what the slowest takes in an emulator."""
_LAST_LINES = 4
_PASSED = "passed"


@dataclass(frozen=True)
class Outcome:
    """How a check ended: its wall time, and why it failed; empty if it passed."""

    section: str
    name: str
    seconds: float
    failure: str


def run_forked(
    section: str, name: str, check: Callable[[], object], time_limit_s: float = TIME_LIMIT_S
) -> Outcome:
    """Run a check in a child process and return how it ended. No other thread may run in this process.

    A check fails that raises, ends its process, is ended by a signal, or takes longer than the limit.
    """
    started = time.monotonic()
    receiver, sender = os.pipe()
    child = os.fork()
    if child == 0:
        _run_as_child(check, sender)
    os.close(sender)
    with os.fdopen(receiver, "rb") as pipe:
        ended = bool(select.select([pipe], [], [], time_limit_s)[0])
        if not ended:
            os.kill(child, signal.SIGKILL)
        said = pipe.read().decode(errors="replace")
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    failure = "" if said == _PASSED else said or f"its process ended with {status}"
    if not ended:
        failure = f"it took more than {time_limit_s} s"
    return Outcome(section, name, round(time.monotonic() - started, 1), failure)


def _run_as_child(check: Callable[[], object], sender: int) -> None:
    try:
        check()
        said = _PASSED
    except BaseException:  # noqa: BLE001 - whatever it was, the parent reports it
        said = " | ".join(line.strip() for line in traceback.format_exc().splitlines()[-_LAST_LINES:])
    os.write(sender, said.encode()[: select.PIPE_BUF])
    os._exit(0)
