"""Host time of one eager call: the time to enqueue it, without waiting for the device."""

from __future__ import annotations

import statistics
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

BAR = 15.0  # microseconds of each of our calls
_CALLS = 200  # fewer than the launches that a stream can queue, so that a call never waits for the device


@dataclass(frozen=True)
class HostCall:
    """A call to time, on inputs so small that the device keeps up; ``within`` is entered around a batch."""

    call: Callable[[], object]
    within: Callable[[], AbstractContextManager[object]] = nullcontext


@dataclass(frozen=True)
class HostTime:
    """Microseconds of one call: median and quartiles over batches of calls; a reason where it cannot run."""

    provider: str
    us: float | None
    us_quartile_low: float | None
    us_quartile_high: float | None
    absent: str = ""


def host_times(
    calls: Mapping[str, HostCall], device: torch.device, *, batches: int = 31
) -> tuple[HostTime, ...]:
    """Time each call, by the name of its provider, in alternating order."""
    names, absent = tuple(calls), dict[str, str]()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(batches + 1):
        for name in names if turn % 2 else reversed(names):
            if name in absent:
                continue
            try:
                microseconds = _batch(calls[name], device)
            except RuntimeError as error:
                absent[name] = str(error).splitlines()[0][:200]
                continue
            if turn:  # the first batch warms up
                times[name].append(microseconds)
    return tuple(_summary(name, times[name], absent.get(name, "")) for name in calls)


def _batch(timed: HostCall, device: torch.device) -> float:
    call = timed.call
    with timed.within():
        call()
        torch.cuda.synchronize(device)
        start = time.perf_counter()
        for _ in range(_CALLS):
            call()
        elapsed = time.perf_counter() - start
        torch.cuda.synchronize(device)
    return elapsed / _CALLS * 1e6


def _summary(name: str, times: list[float], absent: str) -> HostTime:
    if absent:
        return HostTime(name, None, None, None, absent)
    low, median, high = statistics.quantiles(times, n=4)
    return HostTime(name, median, low, high)
