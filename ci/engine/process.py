"""Runs a program within limits of time and memory, and ends it with its children when it breaks one."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_INTERVAL_S = 0.2
"""Time between two looks at the memory, of which a program takes a few 100 MB in that time at most."""


@dataclass(frozen=True)
class Limits:
    """What one unit of a build may take: seconds by the clock, and bytes of memory with its children."""

    seconds: float
    memory_bytes: int


@dataclass(frozen=True)
class Usage:
    """Resource usage of a unit: processor time in seconds, peak memory with its children in bytes."""

    cpu_seconds: float
    memory_bytes: int


@dataclass(frozen=True)
class Ended:
    """How a program ended, and what it took."""

    status: int
    """Its exit code; negative: the signal that ended it."""
    seconds: float
    usage: Usage
    broken: str
    """The limit that it broke, in words; empty: none."""


def run_limited(
    command: Sequence[str], limits: Limits, environment: Mapping[str, str] | None = None
) -> Ended:
    """Run a program to its end, or to the moment when it breaks a limit.

    Its children end with it, also when this process is interrupted or terminated.

    Args:
        command: the argument list.
        limits: by a clock that nobody can set.
        environment: its variables; None: those of this process.

    Raises:
        OSError: it cannot be started.
    """
    started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    peak, broken = 0, ""
    with (
        _terminated_as_interrupted(),
        subprocess.Popen(command, env=environment, start_new_session=True) as child,
    ):
        try:
            while not (broken or _ends_within(child, _INTERVAL_S)):
                peak = max(peak, _memory_of(child.pid))
                broken = _broken(limits, time.monotonic() - started, peak)
        finally:
            _end(child.pid)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    usage = Usage(round(cpu_seconds, 3), max(peak, after.ru_maxrss * 1024))
    return Ended(child.returncode, time.monotonic() - started, usage, broken)


def signal_name(number: int) -> str:
    """Return the name of a signal, such as ``SIGSEGV``, with what the one of the system itself means."""
    if number == signal.SIGKILL:
        return "SIGKILL, as the system does when memory runs out"
    names = {known.value: known.name for known in signal.Signals}
    return names.get(number, f"signal {number}")


def _ends_within(child: subprocess.Popen[bytes], seconds: float) -> bool:
    try:
        child.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def _broken(limits: Limits, seconds: float, memory: int) -> str:
    if seconds > limits.seconds:
        return f"its limit is {limits.seconds:g} s"
    if memory > limits.memory_bytes:
        return f"its limit is {limits.memory_bytes / 1e9:g} GB"
    return ""


def _tree(pid: int) -> list[psutil.Process]:
    """Return a process and its descendants; those that have just ended are left out."""
    with suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    return []


def _memory_of(pid: int) -> int:
    total = 0
    for process in _tree(pid):
        with suppress(psutil.NoSuchProcess):
            total += process.memory_info().rss
    return total


def _end(pid: int) -> None:
    """End what is left of a program and of its session."""
    for process in _tree(pid):
        with suppress(psutil.NoSuchProcess):
            process.kill()
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Treat SIGTERM like Ctrl-C, so that the children end before this process does."""

    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    old = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, old)
