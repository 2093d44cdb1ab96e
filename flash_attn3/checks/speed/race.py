"""Races the public call against torch's own attention, interleaved round by round in one process.

A card warms up and its clocks drift, so only a ratio of neighbours in time counts: every round times each
provider once, in alternating order, on fresh random data, and the figures are medians over rounds.
"""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from flash_attn3.checks.data.inputs import DTYPES
from flash_attn3.checks.ops.fwd import public_forward
from flash_attn3.checks.speed.bars import best_over_cudnn
from flash_attn3.checks.speed.gpu_state import GpuState, read_gpu_state
from flash_attn3.checks.speed.race_peer import FA3, call_fa3
from flash_attn3.checks.truth.reference import (
    Attention,
    Rows,
    Scoring,
    attention_fp64,
    attention_same_precision,
)
from flash_attn3.checks.truth.rule import judge, lse_tolerance

if TYPE_CHECKING:
    from collections.abc import Callable

    from flash_attn3.checks.speed.race_settings import Setting


OURS, CUDNN, FLASH = "flash_attn3", "cudnn", "flash"
_WINDOW_MS = 8.0  # of back-to-back calls between two events
_CHECKED_ROWS = 64


@dataclass(frozen=True)
class Inputs:
    """(batch, seqlen, heads, head_dim), or (tokens, heads, head_dim) with the starts of the sequences."""

    q: Tensor
    k: Tensor
    v: Tensor
    cu_seqlens: Tensor | None


if TYPE_CHECKING:
    Provider = Callable[[Setting, Inputs], Tensor]


@dataclass(frozen=True)
class Timing:
    """What one provider took: medians over rounds, and the quartiles of the milliseconds."""

    provider: str
    ms: float
    ms_quartile_low: float
    ms_quartile_high: float
    tflops: float
    calls_per_round: int


@dataclass(frozen=True)
class Race:
    """One setting, raced. Ratios are above 1 where ours is faster; None where a provider could not run.

    Attributes:
        kernels: the kind of kernels that ours was held to; empty when it chose.
        run: counts the races of this setting, from 1.
        best: the fastest of the others, and ratio_to_best the ratio to it; None when ours ran alone.
        multiple_of_best: ratio_to_cudnn over that of the best implementation known, see ``bars``.
    """

    setting: Setting
    kernels: str
    run: int
    rounds: int
    timings: tuple[Timing, ...]
    ratio_to_cudnn: float | None
    ratio_to_flash: float | None
    ratio_to_fa3: float | None
    best: str | None
    ratio_to_best: float | None
    multiple_of_best: float | None
    state: GpuState
    absent: dict[str, str]
    failures: tuple[str, ...]

    @property
    def name(self) -> str:
        """The setting and the kernels in one word."""
        return race_name(self.setting, self.kernels)

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {
            "name": self.name,
            "setting": {
                **asdict(self.setting),
                "batch": self.setting.batch,
                "heads": self.setting.heads,
            },
            "kernels": self.kernels,
            "run": self.run,
            "rounds": self.rounds,
            "timings": [asdict(timing) for timing in self.timings],
            "ratio_to_cudnn": self.ratio_to_cudnn,
            "ratio_to_flash": self.ratio_to_flash,
            "ratio_to_fa3": self.ratio_to_fa3,
            "best": self.best,
            "ratio_to_best": self.ratio_to_best,
            "multiple_of_best": self.multiple_of_best,
            "state": asdict(self.state),
            "absent": self.absent,
            "failures": list(self.failures),
            "passed": not self.failures,
        }


def race_name(setting: Setting, kernels: str) -> str:
    """Return what a race of a setting is called."""
    return f"{setting.name}@{kernels}" if kernels else setting.name


def race(
    setting: Setting,
    device: torch.device,
    *,
    rounds: int,
    run: int = 1,
    kernels: str = "",
    with_fa3: bool = False,
) -> Race:
    """Race every provider that can run this setting, then judge the output of the last timed call of ours.

    Args:
        setting: what each call computes.
        device: a CUDA device.
        rounds: how often each provider is timed.
        run: counts the races of this setting.
        kernels: the kind that the caller holds ours to; empty for none.
        with_fa3: the existing FlashAttention-3 was loaded (``race_peer``), and is raced, too.
    """
    providers: dict[str, Provider] = {OURS: call_ours, CUDNN: _cudnn, FLASH: _flash}
    if with_fa3:
        providers[FA3] = call_fa3
    warm = random_inputs(setting, device)
    absent: dict[str, str] = {}
    for name in tuple(providers):
        refusal = _refusal(providers[name], setting, warm)
        if refusal is not None:
            if name == OURS:
                raise refusal
            absent[name] = str(refusal).splitlines()[0][:200]
            del providers[name]
    calls = {name: calls_per_window(provider, setting, warm) for name, provider in providers.items()}
    times: dict[str, list[float]] = {name: [] for name in providers}
    failures: tuple[str, ...] = ()
    state = GpuState(None, None, None)
    for turn in range(rounds):
        inputs = random_inputs(setting, device)
        order = list(providers) if turn % 2 == 0 else list(reversed(providers))
        for name in order:
            window = time_window(providers[name], setting, inputs, calls[name])
            times[name].append(window.ms)
            if name == OURS:
                state = window.state
                failures += judge_rows(setting, inputs, window.out) if turn == rounds - 1 else ()
            del window
    ratios = {name: _ratio(times, name) for name in providers if name != OURS}
    best = min(ratios, key=ratios.__getitem__, default=None)
    return Race(
        setting=setting,
        kernels=kernels,
        run=run,
        rounds=rounds,
        timings=tuple(_timing(setting, name, times[name], calls[name]) for name in providers),
        ratio_to_cudnn=ratios.get(CUDNN),
        ratio_to_flash=ratios.get(FLASH),
        ratio_to_fa3=ratios.get(FA3),
        best=best,
        ratio_to_best=None if best is None else ratios[best],
        multiple_of_best=_multiple_of_best(setting, ratios.get(CUDNN)),
        state=state,
        absent=absent,
        failures=failures,
    )


def call_ours(setting: Setting, inputs: Inputs) -> Tensor:
    """Call the public function as the setting says and return ``out``."""
    options: dict[str, Any] = {}
    if setting.window is not None:
        options["window_size"] = setting.window_size
    if inputs.cu_seqlens is not None:
        cu_seqlens = inputs.cu_seqlens
        options |= {"cu_seqlens_q": cu_seqlens, "cu_seqlens_k": cu_seqlens}
        options |= {"max_seqlen_q": setting.seqlen, "max_seqlen_k": setting.seqlen}
    return public_forward(inputs.q, inputs.k, inputs.v, None, setting.causal, **options)[0]


def _sdpa(backend: SDPBackend, setting: Setting, inputs: Inputs) -> Tensor:
    with sdpa_kernel(backend):
        q, k, v = (tensor.transpose(1, 2) for tensor in (inputs.q, inputs.k, inputs.v))
        grouped = setting.group > 1
        return scaled_dot_product_attention(q, k, v, is_causal=setting.causal, enable_gqa=grouped)


def _cudnn(setting: Setting, inputs: Inputs) -> Tensor:
    if setting.window is not None:
        raise RuntimeError("torch gives cuDNN no sliding window")
    if inputs.cu_seqlens is None:
        return _sdpa(SDPBackend.CUDNN_ATTENTION, setting, inputs)
    lengths = (inputs.cu_seqlens, inputs.cu_seqlens, setting.seqlen, setting.seqlen)
    q, k, v = inputs.q, inputs.k, inputs.v
    result = torch.ops.aten._cudnn_attention_forward(  # noqa: SLF001  torch calls it for nested tensors
        q, k, v, None, *lengths, False, 0.0, setting.causal, False
    )
    out: Tensor = result[0]
    return out


def _flash(setting: Setting, inputs: Inputs) -> Tensor:
    if inputs.cu_seqlens is None and setting.window is None:
        return _sdpa(SDPBackend.FLASH_ATTENTION, setting, inputs)
    left, right = (None if limit < 0 else limit for limit in setting.window_size)
    lengths = (inputs.cu_seqlens, inputs.cu_seqlens, setting.seqlen, setting.seqlen)
    q, k, v = inputs.q, inputs.k, inputs.v
    result = torch.ops.aten._flash_attention_forward(  # noqa: SLF001  torch's way to windows and packed sequences
        q, k, v, *lengths, 0.0, setting.causal, False, window_size_left=left, window_size_right=right
    )
    out: Tensor = result[0]
    return out


def random_inputs(setting: Setting, device: torch.device) -> Inputs:
    """Return fresh standard normal inputs of a setting."""
    leading = (sum(setting.lengths),) if setting.varlen else (setting.batch, setting.seqlen)
    heads_kv, dtype = setting.heads // setting.group, DTYPES[setting.dtype]
    starts = torch.tensor([0, *accumulate(setting.lengths)], dtype=torch.int32, device=device)
    return Inputs(
        torch.randn((*leading, setting.heads, setting.head_dim), device=device, dtype=dtype),
        torch.randn((*leading, heads_kv, setting.head_dim), device=device, dtype=dtype),
        torch.randn((*leading, heads_kv, setting.head_dim_v or setting.head_dim), device=device, dtype=dtype),
        starts if setting.varlen else None,
    )


def _refusal(provider: Provider, setting: Setting, inputs: Inputs) -> RuntimeError | None:
    try:
        provider(setting, inputs)
        torch.cuda.synchronize()
    except RuntimeError as error:
        return error
    return None


def calls_per_window(provider: Provider, setting: Setting, inputs: Inputs) -> int:
    """Warm a provider up and return how many of its calls fill a window."""
    for _ in range(3):
        provider(setting, inputs)
    return max(2, round(_WINDOW_MS / time_window(provider, setting, inputs, 5).ms))


@dataclass(frozen=True)
class Window:
    """A window of back-to-back calls: milliseconds per call, the last output, and the card while they ran."""

    ms: float
    out: Tensor
    state: GpuState


def time_window(provider: Provider, setting: Setting, inputs: Inputs, calls: int) -> Window:
    """Time so many calls back to back, host time hidden behind a sleep of the device."""
    start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    # The calls take turns in two blocks of the allocator, which hands out what is freed here: a value that no
    # call writes stays NaN.
    shape = (*inputs.q.shape[:-1], inputs.v.shape[-1])
    poisoned = [inputs.q.new_full(shape, torch.nan) for _ in range(2)]
    # The device sleeps while the first calls are queued, so that the window holds no host time.
    torch.cuda._sleep(400_000)  # noqa: SLF001  cycles; the only delay that torch offers
    del poisoned
    start.record()
    for _ in range(calls):
        out = provider(setting, inputs)
    stop.record()
    state = read_gpu_state(inputs.q.device)
    stop.synchronize()
    return Window(start.elapsed_time(stop) / calls, out, state)


def _timing(setting: Setting, provider: str, times: list[float], calls: int) -> Timing:
    low, median, high = statistics.quantiles(times, n=4) if len(times) > 1 else (times[0],) * 3
    return Timing(provider, median, low, high, setting.flops / median / 1e9, calls)


def _ratio(times: dict[str, list[float]], other: str) -> float:
    return statistics.median(theirs / ours for theirs, ours in zip(times[other], times[OURS], strict=True))


def _multiple_of_best(setting: Setting, ratio_to_cudnn: float | None) -> float | None:
    if not setting.plain or ratio_to_cudnn is None:
        return None
    best = best_over_cudnn(setting.head_dim, setting.causal, setting.seqlen)
    return None if best is None else ratio_to_cudnn / best


def judge_rows(setting: Setting, inputs: Inputs, out: Tensor) -> tuple[str, ...]:
    """Judge the first, a middle and the last rows of a timed output of full size against float64."""
    # Rows of a few sequences are enough, and float64 is slow. The first is the longest.
    few = slice(0, setting.seqlen) if setting.varlen else slice(-2, None)
    parts = [tensor[few] for tensor in (inputs.q, inputs.k, inputs.v, out)]
    q, k, v, ours = (part[None] if setting.varlen else part for part in parts)
    scoring = Scoring(setting.head_dim**-0.5, setting.causal, window=setting.window_size)
    failures: list[str] = []
    for start in (0, setting.seqlen // 2 - 7, setting.seqlen - _CHECKED_ROWS):
        rows = Rows(start, start + _CHECKED_ROWS)
        reference = attention_fp64(q, k, v, scoring, rows=rows)
        plain = attention_same_precision(q, k, v, scoring, rows=rows)
        here = slice(rows.start, rows.stop)
        tolerance = lse_tolerance(q[:, here], k, reference.lse, scoring)
        # The timed call returns no LSE: the reference's own stands in for it, and is judged elsewhere.
        result = Attention(ours[:, here], reference.lse.float())
        verdict = judge(result, reference=reference, same_precision=plain, lse_tolerance=tolerance)
        failures += (
            f"rows {rows.start} to {rows.stop} of the timed output: {text}" for text in verdict.failures
        )
    return tuple(failures)
