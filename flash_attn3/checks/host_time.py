"""The time that the host spends in one eager call: enqueue only, without waiting for the device."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from flash_attn3 import flash_attn_func, flash_attn_varlen_func

if TYPE_CHECKING:
    from collections.abc import Callable

_CALLS = 200  # fewer than the launches a stream can queue, so that a call never waits for the device


@dataclass(frozen=True)
class HostTime:
    """Microseconds of one call: median and quartiles over batches of calls; a reason where it cannot run."""

    provider: str
    us: float | None
    us_quartile_low: float | None
    us_quartile_high: float | None
    absent: str = ""


def host_times(device: torch.device, *, batches: int = 31) -> tuple[HostTime, ...]:
    """Measure ours and torch's on a shape small enough for the device to keep up, in alternating order."""
    q, k, v = (torch.randn(1, 128, 4, 128, device=device, dtype=torch.bfloat16) for _ in range(3))
    (pq, pk, pv), out = (tensor[0] for tensor in (q, k, v)), torch.empty_like(q)
    starts = torch.tensor([0, 128], dtype=torch.int32, device=device)
    tq, tk, tv = (tensor.transpose(1, 2) for tensor in (q, k, v))
    calls: dict[str, tuple[SDPBackend | None, Callable[[], object]]] = {
        "flash_attn3": (None, lambda: flash_attn_func(q, k, v)),
        "flash_attn3 causal": (None, lambda: flash_attn_func(q, k, v, causal=True)),
        "flash_attn3 window": (None, lambda: flash_attn_func(q, k, v, window_size=(64, 0))),
        "flash_attn3 varlen": (None, lambda: flash_attn_varlen_func(pq, pk, pv, starts, starts, 128, 128)),
        "flash_attn3 out": (None, lambda: flash_attn_func(q, k, v, out=out)),
        "cudnn": (SDPBackend.CUDNN_ATTENTION, lambda: scaled_dot_product_attention(tq, tk, tv)),
        "flash": (SDPBackend.FLASH_ATTENTION, lambda: scaled_dot_product_attention(tq, tk, tv)),
    }
    absent: dict[str, str] = {}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(batches + 1):
        for name in calls if turn % 2 else reversed(calls):
            if name in absent:
                continue
            backend, call = calls[name]
            try:
                microseconds = _batch(call, device, backend)
            except RuntimeError as error:
                absent[name] = str(error).splitlines()[0][:200]
                continue
            if turn:  # the first batch warms up
                times[name].append(microseconds)
    return tuple(_summary(name, times[name], absent.get(name, "")) for name in calls)


def _batch(call: Callable[[], object], device: torch.device, backend: SDPBackend | None) -> float:
    if backend is not None:
        with sdpa_kernel(backend):
            return _batch(call, device, None)
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
