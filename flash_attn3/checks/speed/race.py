"""Races an operator against other implementations, interleaved round by round in one process.

A GPU warms up and its clocks drift, so only the ratio of two times measured one after the other counts: every
round times each provider once, in alternating order, on fresh random data, and the figures are medians over
rounds.
"""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from flash_attn3.checks.speed.gpu_state import GpuState, read_gpu_state
from flash_attn3.checks.speed.providers import CUDNN, OTHERS, OURS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from flash_attn3._native import Code, Kernel

_WINDOW_MS = 8.0  # of back-to-back calls between two events


class Setting(Protocol):
    """One call that is raced: plain data."""

    @property
    def name(self) -> str:
        """The setting in one word."""

    @property
    def flops(self) -> float:
        """Floating-point operations of one call."""

    @property
    def best_over_cudnn(self) -> float | None:
        """Speed of the best implementation known, as a multiple of cuDNN's; None where none was measured."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""


SettingT = TypeVar("SettingT", bound=Setting)
InputsT = TypeVar("InputsT")
OutT = TypeVar("OutT", bound="Tensor | tuple[Tensor, ...]")


@dataclass(frozen=True)
class Races(Generic[SettingT, InputsT, OutT]):
    """The races of one operator.

    Attributes:
        settings: the settings to race, given whether a small selection is enough and the operator's kernels
            for this GPU.
        inputs: fresh random inputs of a setting on a device.
        ours: calls the public function of this package and returns its results.
        others: calls other implementations, by provider name.
        peers: the same for implementations that have to be loaded first; see ``race_peer``.
        new_out: NaN-filled tensors of the sizes of the results.
        judge: returns a sentence for each error in results of ours.
        restricted: settings that are raced once more with kernels of one code alone.
        rounds: number of times that each provider is timed.
        judged: whether the floors on speed of a validation hold for the ratios. False: recorded; no bar yet.
    """

    settings: Callable[[bool, Sequence[Kernel]], Sequence[SettingT]]
    inputs: Callable[[SettingT, torch.device], InputsT]
    ours: Callable[[SettingT, InputsT], OutT]
    others: Mapping[str, Callable[[SettingT, InputsT], OutT]]
    new_out: Callable[[InputsT], OutT]
    judge: Callable[[SettingT, InputsT, OutT], tuple[str, ...]]
    peers: Mapping[str, Callable[[SettingT, InputsT], OutT]] = field(default_factory=dict)
    restricted: Mapping[Code, Callable[[], Sequence[SettingT]]] = field(default_factory=dict)
    rounds: int = 21
    judged: bool = True


@dataclass(frozen=True)
class Timing:
    """Time of one provider: medians over rounds, and the quartiles of the milliseconds."""

    provider: str
    ms: float
    ms_quartile_low: float
    ms_quartile_high: float
    tflops: float
    calls_per_round: int


@dataclass(frozen=True)
class Race:
    """Result of racing one setting.

    Attributes:
        kernels: the code whose kernels alone could serve ours; empty for any.
        run: number of this race among those of its setting, from 1.
        ratios: for each other provider its time over ours, so above 1 where ours is faster.
        absent: for each provider that could not run, the reason.
        failures: errors in the output of the last timed call of ours.
        judged: see ``Races``.
    """

    setting: Setting
    kernels: str
    run: int
    rounds: int
    timings: tuple[Timing, ...]
    ratios: Mapping[str, float]
    state: GpuState
    absent: Mapping[str, str]
    failures: tuple[str, ...]
    judged: bool = True

    @property
    def name(self) -> str:
        """The setting and the kernels in one word."""
        return race_name(self.setting, self.kernels)

    @property
    def best(self) -> str | None:
        """The fastest of the others; None when ours ran alone."""
        return min(self.ratios, key=self.ratios.__getitem__, default=None)

    @property
    def multiple_of_best(self) -> float | None:
        """Ratio to cuDNN over that of the best implementation known, see ``bars``."""
        best, ratio = self.setting.best_over_cudnn, self.ratios.get(CUDNN)
        return None if best is None or ratio is None else ratio / best

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON; a ratio is None where a provider did not run."""
        return {
            "name": self.name,
            "setting": self.setting.as_dict(),
            "kernels": self.kernels,
            "run": self.run,
            "rounds": self.rounds,
            "timings": [asdict(timing) for timing in self.timings],
            **{f"ratio_to_{other}": self.ratios.get(other) for other in OTHERS},
            "best": self.best,
            "ratio_to_best": None if self.best is None else self.ratios[self.best],
            "multiple_of_best": self.multiple_of_best,
            "judged": self.judged,
            "state": asdict(self.state),
            "absent": dict(self.absent),
            "failures": list(self.failures),
            "passed": not self.failures,
        }


def race_name(setting: Setting, kernels: str) -> str:
    """Return the name of a race of a setting."""
    return f"{setting.name}@{kernels}" if kernels else setting.name


def race(
    races: Races[SettingT, InputsT, OutT],
    setting: SettingT,
    device: torch.device,
    *,
    rounds: int,
    run: int = 1,
    kernels: str = "",
    with_peers: bool = False,
) -> Race:
    """Race every provider that can run a setting, and judge the output of the last timed call of ours.

    Args:
        races: of the operator.
        setting: the call.
        device: a CUDA device.
        rounds: number of times that each provider is timed.
        run: number of this race among those of its setting.
        kernels: the code to which the caller restricts ours; empty for none.
        with_peers: also race the peers, which the caller has loaded.

    Raises:
        RuntimeError: ours cannot run the setting.
    """
    providers = {OURS: races.ours, **races.others, **(races.peers if with_peers else {})}
    warm = races.inputs(setting, device)
    absent: dict[str, str] = {}
    for name in tuple(providers):
        refusal = _refusal(providers[name], setting, warm)
        if refusal is not None:
            if name == OURS:
                raise refusal
            absent[name] = str(refusal).splitlines()[0][:200]
            del providers[name]
    calls = {name: calls_per_window(races, call, setting, warm) for name, call in providers.items()}
    times: dict[str, list[float]] = {name: [] for name in providers}
    failures: tuple[str, ...] = ()
    state = GpuState(None, None, None)
    for turn in range(rounds):
        inputs = races.inputs(setting, device)
        order = list(providers) if turn % 2 == 0 else list(reversed(providers))
        for name in order:
            window = time_window(races, providers[name], setting, inputs, calls[name])
            times[name].append(window.ms)
            if name == OURS:
                state = window.state
                failures += races.judge(setting, inputs, window.out) if turn == rounds - 1 else ()
            del window
    return Race(
        setting=setting,
        kernels=kernels,
        run=run,
        rounds=rounds,
        timings=tuple(_timing(setting, name, times[name], calls[name]) for name in providers),
        ratios={name: _ratio(times, name) for name in providers if name != OURS},
        state=state,
        absent=absent,
        failures=failures,
        judged=races.judged,
    )


def _refusal(
    call: Callable[[SettingT, InputsT], OutT], setting: SettingT, inputs: InputsT
) -> RuntimeError | None:
    try:
        call(setting, inputs)
        torch.cuda.synchronize()
    except RuntimeError as error:
        return error
    return None


def calls_per_window(
    races: Races[SettingT, InputsT, OutT],
    call: Callable[[SettingT, InputsT], OutT],
    setting: SettingT,
    inputs: InputsT,
) -> int:
    """Warm a provider up and return how many of its calls fill a window."""
    for _ in range(3):
        call(setting, inputs)
    return max(2, round(_WINDOW_MS / time_window(races, call, setting, inputs, 5).ms))


@dataclass(frozen=True)
class Window(Generic[OutT]):
    """Back-to-back calls: milliseconds of each, the last results, and the GPU's state meanwhile."""

    ms: float
    out: OutT
    state: GpuState


def time_window(
    races: Races[SettingT, InputsT, OutT],
    call: Callable[[SettingT, InputsT], OutT],
    setting: SettingT,
    inputs: InputsT,
    calls: int,
) -> Window[OutT]:
    """Time ``calls`` back-to-back calls of a provider, with the host time hidden behind a sleeping device."""
    start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    # The allocator gives the memory that is freed here to the outputs of the calls, which alternate between
    # two blocks: an element that no call writes stays NaN.
    poisoned = [races.new_out(inputs) for _ in range(2)]
    first = poisoned[0]
    device = (first if isinstance(first, Tensor) else first[0]).device
    # The device sleeps while the first calls are queued, so that the window contains no host time.
    torch.cuda._sleep(400_000)  # noqa: SLF001  cycles; the only delay that torch offers
    del poisoned, first
    start.record()
    for _ in range(calls):
        out = call(setting, inputs)
    stop.record()
    state = read_gpu_state(device)
    stop.synchronize()
    return Window(start.elapsed_time(stop) / calls, out, state)


def _timing(setting: Setting, provider: str, times: list[float], calls: int) -> Timing:
    low, median, high = statistics.quantiles(times, n=4) if len(times) > 1 else (times[0],) * 3
    return Timing(provider, median, low, high, setting.flops / median / 1e9, calls)


def _ratio(times: Mapping[str, Sequence[float]], other: str) -> float:
    return statistics.median(theirs / ours for theirs, ours in zip(times[other], times[OURS], strict=True))
