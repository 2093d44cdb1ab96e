"""The time that the host spends in one eager call: enqueue only, without waiting for the device."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from flash_attn3 import (
    flash_attn_combine,
    flash_attn_func,
    flash_attn_qkvpacked_func,
    flash_attn_varlen_func,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    _Call = tuple[SDPBackend | None, Callable[[], object]]

OURS = "flash_attn3"
BAR = 15.0  # microseconds of each of our calls
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
    calls = {**_our_calls(device), **_torch_calls(device)}
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


def _our_calls(device: torch.device) -> dict[str, _Call]:
    """Return each public call, with what changes its way through the package."""
    q, k, v = _tensors(device)
    (pq, pk, pv), out = (tensor[0] for tensor in (q, k, v)), torch.empty_like(q)
    sink = torch.randn(q.shape[2], device=device)
    qkv = torch.stack((q, k, v), dim=2)
    pages = k.view(8, 16, *k.shape[2:])
    table = torch.arange(8, dtype=torch.int32, device=device)[None]
    used = torch.tensor([128], dtype=torch.int32, device=device)
    starts = torch.tensor([0, 128], dtype=torch.int32, device=device)
    partial = torch.randn(4, *q.shape, device=device)
    partial_lse = torch.randn(4, 1, 4, 128, device=device).transpose(2, 3)
    window = (64, 0)
    calls: dict[str, Callable[[], object]] = {
        "": lambda: flash_attn_func(q, k, v),
        " causal": lambda: flash_attn_func(q, k, v, causal=True),
        " window": lambda: flash_attn_func(q, k, v, window_size=window),
        " softcap": lambda: flash_attn_func(q, k, v, softcap=20.0),
        " sink": lambda: flash_attn_func(q, k, v, learnable_sink=sink),
        " out": lambda: flash_attn_func(q, k, v, out=out),
        " qkvpacked": lambda: flash_attn_qkvpacked_func(qkv),
        " varlen": lambda: flash_attn_varlen_func(pq, pk, pv, starts, starts, 128, 128),
        " varlen window": lambda: flash_attn_varlen_func(
            pq, pk, pv, starts, starts, 128, 128, window_size=window
        ),
        " varlen sink": lambda: flash_attn_varlen_func(
            pq, pk, pv, starts, starts, 128, 128, learnable_sink=sink
        ),
        " varlen paged": lambda: flash_attn_varlen_func(
            pq, pages, pages, starts, None, 128, 128, seqused_k=used, page_table=table
        ),
        " combine": lambda: flash_attn_combine(partial, partial_lse),
    }
    return {f"{OURS}{way}": (None, call) for way, call in calls.items()}


def _torch_calls(device: torch.device) -> dict[str, _Call]:
    q, k, v = (tensor.transpose(1, 2) for tensor in _tensors(device))
    return {
        "cudnn": (SDPBackend.CUDNN_ATTENTION, lambda: scaled_dot_product_attention(q, k, v)),
        "flash": (SDPBackend.FLASH_ATTENTION, lambda: scaled_dot_product_attention(q, k, v)),
    }


def _tensors(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = (torch.randn(1, 128, 4, 128, device=device, dtype=torch.bfloat16) for _ in range(3))
    return q, k, v


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
