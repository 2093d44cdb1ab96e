"""Races the public call against torch's own attention, interleaved round by round in one process.

A card warms up and its clocks drift, so only a ratio of neighbours in time counts: every round times each
provider once, in alternating order, on fresh random data, and the figures are medians over rounds.
"""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from flash_attn3.checks.bars import best_over_cudnn
from flash_attn3.checks.correctness import public_forward
from flash_attn3.checks.gpu_state import GpuState, read_gpu_state
from flash_attn3.checks.inputs import DTYPES
from flash_attn3.checks.reference import Attention, Rows, attention_fp64, attention_same_precision
from flash_attn3.checks.rule import judge, lse_tolerance

if TYPE_CHECKING:
    from collections.abc import Callable

    Provider = Callable[[Tensor, Tensor, Tensor, bool], Tensor]

TOKENS = 16384
HIDDEN = 2048
SEQLENS = (512, 1024, 2048, 4096, 8192, 16384)
OURS = "flash_attn3"
_WINDOW_MS = 8.0  # of back-to-back calls between two events
_CHECKED_ROWS = 64


@dataclass(frozen=True)
class Setting:
    """One race: ``TOKENS`` tokens and ``HIDDEN`` hidden in all."""

    dtype: str
    head_dim: int
    causal: bool
    seqlen: int

    @property
    def batch(self) -> int:
        """How many sequences of this length make up the tokens."""
        return TOKENS // self.seqlen

    @property
    def heads(self) -> int:
        """How many heads of this head_dim make up the hidden size."""
        return HIDDEN // self.head_dim

    @property
    def flops(self) -> float:
        """Floating-point operations of one call; half of them under a causal mask."""
        total = 4.0 * self.batch * self.heads * self.seqlen**2 * self.head_dim
        return total / 2 if self.causal else total

    @property
    def name(self) -> str:
        """The setting in one word."""
        return f"{self.dtype}_d{self.head_dim}_{'causal' if self.causal else 'full'}_s{self.seqlen}"


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
    """One setting, raced. Ratios are above 1 where ours is faster; None where a provider could not run."""

    setting: Setting
    rounds: int
    timings: tuple[Timing, ...]
    ratio_to_cudnn: float | None
    ratio_to_flash: float | None
    multiple_of_best: float | None
    state: GpuState
    absent: dict[str, str]
    failures: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {
            "name": self.setting.name,
            "setting": {
                **asdict(self.setting),
                "batch": self.setting.batch,
                "heads": self.setting.heads,
            },
            "rounds": self.rounds,
            "timings": [asdict(timing) for timing in self.timings],
            "ratio_to_cudnn": self.ratio_to_cudnn,
            "ratio_to_flash": self.ratio_to_flash,
            "multiple_of_best": self.multiple_of_best,
            "state": asdict(self.state),
            "absent": self.absent,
            "failures": list(self.failures),
            "passed": not self.failures,
        }


def settings(quick: bool, head_dims: tuple[int, ...]) -> tuple[Setting, ...]:
    """Return the settings to race, bf16."""
    seqlens = (1024, 4096) if quick else SEQLENS
    return tuple(
        Setting("bf16", head_dim, causal, seqlen)
        for head_dim in head_dims
        for causal in (False, True)
        for seqlen in seqlens
    )


def race(setting: Setting, device: torch.device, *, rounds: int) -> Race:
    """Race every provider that can run this setting, then judge the output of the last timed call of ours."""
    providers: dict[str, Provider] = {OURS: _ours, "cudnn": _cudnn, "flash": _flash}
    warm = _random_inputs(setting, device)
    absent: dict[str, str] = {}
    for name in tuple(providers):
        refusal = _refusal(providers[name], warm, setting.causal)
        if refusal is not None:
            if name == OURS:
                raise refusal
            absent[name] = str(refusal).splitlines()[0][:200]
            del providers[name]
    calls = {name: _calls_per_window(provider, warm, setting.causal) for name, provider in providers.items()}
    times: dict[str, list[float]] = {name: [] for name in providers}
    failures: tuple[str, ...] = ()
    state = GpuState(None, None, None)
    for turn in range(rounds):
        inputs = _random_inputs(setting, device)
        order = list(providers) if turn % 2 == 0 else list(reversed(providers))
        for name in order:
            window = _time(providers[name], inputs, setting.causal, calls[name])
            times[name].append(window.ms)
            if name == OURS:
                state = window.state
                failures += _judge_rows(setting, inputs, window.out) if turn == rounds - 1 else ()
            del window
    return Race(
        setting=setting,
        rounds=rounds,
        timings=tuple(_timing(setting, name, times[name], calls[name]) for name in providers),
        ratio_to_cudnn=_ratio(times, "cudnn"),
        ratio_to_flash=_ratio(times, "flash"),
        multiple_of_best=_multiple_of_best(setting, _ratio(times, "cudnn")),
        state=state,
        absent=absent,
        failures=failures,
    )


def _ours(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    return public_forward(q, k, v, None, causal)[0]


def _sdpa(backend: SDPBackend, q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    with sdpa_kernel(backend):
        q, k, v = (tensor.transpose(1, 2) for tensor in (q, k, v))
        return scaled_dot_product_attention(q, k, v, is_causal=causal)


def _cudnn(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    return _sdpa(SDPBackend.CUDNN_ATTENTION, q, k, v, causal)


def _flash(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    return _sdpa(SDPBackend.FLASH_ATTENTION, q, k, v, causal)


def _random_inputs(setting: Setting, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    shape = (setting.batch, setting.seqlen, setting.heads, setting.head_dim)
    dtype = DTYPES[setting.dtype]
    return (
        torch.randn(shape, device=device, dtype=dtype),
        torch.randn(shape, device=device, dtype=dtype),
        torch.randn(shape, device=device, dtype=dtype),
    )


def _refusal(provider: Provider, inputs: tuple[Tensor, Tensor, Tensor], causal: bool) -> RuntimeError | None:
    try:
        provider(*inputs, causal)
        torch.cuda.synchronize()
    except RuntimeError as error:
        return error
    return None


def _calls_per_window(provider: Provider, inputs: tuple[Tensor, Tensor, Tensor], causal: bool) -> int:
    for _ in range(3):
        provider(*inputs, causal)
    return max(2, round(_WINDOW_MS / _time(provider, inputs, causal, 5).ms))


@dataclass(frozen=True)
class _Window:
    """A window of back-to-back calls: milliseconds per call, the last output, and the card while they ran."""

    ms: float
    out: Tensor
    state: GpuState


def _time(provider: Provider, inputs: tuple[Tensor, Tensor, Tensor], causal: bool, calls: int) -> _Window:
    start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    # The calls take turns in two blocks of the allocator, which hands out what is freed here: a value that no
    # call writes stays NaN.
    poisoned = [torch.full_like(inputs[0], torch.nan) for _ in range(2)]
    # The device sleeps while the first calls are queued, so that the window holds no host time.
    torch.cuda._sleep(400_000)  # noqa: SLF001  cycles; the only delay that torch offers
    del poisoned
    start.record()
    for _ in range(calls):
        out = provider(*inputs, causal)
    stop.record()
    state = read_gpu_state(inputs[0].device)
    stop.synchronize()
    return _Window(start.elapsed_time(stop) / calls, out, state)


def _timing(setting: Setting, provider: str, times: list[float], calls: int) -> Timing:
    low, median, high = statistics.quantiles(times, n=4) if len(times) > 1 else (times[0],) * 3
    return Timing(provider, median, low, high, setting.flops / median / 1e9, calls)


def _ratio(times: dict[str, list[float]], other: str) -> float | None:
    if other not in times:
        return None
    return statistics.median(theirs / ours for theirs, ours in zip(times[other], times[OURS], strict=True))


def _multiple_of_best(setting: Setting, ratio_to_cudnn: float | None) -> float | None:
    best = best_over_cudnn(setting.head_dim, setting.causal, setting.seqlen)
    return None if best is None or ratio_to_cudnn is None else ratio_to_cudnn / best


def _judge_rows(setting: Setting, inputs: tuple[Tensor, Tensor, Tensor], out: Tensor) -> tuple[str, ...]:
    """Judge the first, a middle and the last rows of a timed output of full size against float64."""
    failures: list[str] = []
    for start in (0, setting.seqlen // 2 - 7, setting.seqlen - _CHECKED_ROWS):
        rows = Rows(start, start + _CHECKED_ROWS)
        # Rows of a few batch items are enough, and float64 is slow.
        q, k, v = (tensor[-2:] for tensor in inputs)
        scale = setting.head_dim**-0.5
        reference = attention_fp64(q, k, v, softmax_scale=scale, causal=setting.causal, rows=rows)
        plain = attention_same_precision(q, k, v, softmax_scale=scale, causal=setting.causal, rows=rows)
        here = q[:, rows.start : rows.stop]
        tolerance = lse_tolerance(here, k, reference.lse, scale)
        # The timed call returns no LSE: the reference's own stands in for it, and is judged elsewhere.
        result = Attention(out[-2:, rows.start : rows.stop], reference.lse.float())
        verdict = judge(result, reference=reference, same_precision=plain, lse_tolerance=tolerance)
        failures += (
            f"rows {rows.start} to {rows.stop} of the timed output: {text}" for text in verdict.failures
        )
    return tuple(failures)
