"""A race on this machine's CPU, with times that the test invents."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from flash_attn3.checks.ops import races_of
from flash_attn3.checks.speed import race as module
from flash_attn3.checks.speed.gpu_state import GpuState
from flash_attn3.checks.speed.host_time import HostCall, host_times
from flash_attn3.checks.speed.providers import CUDNN, FA3, FLASH, OURS
from flash_attn3.checks.speed.race import Window, race
from flash_attn3.checks.speed.race_settings import AttentionSetting
from tests.flash_attn3.tiled_attention import TiledAttention

CPU = torch.device("cpu")
STATE = GpuState(1700, 500.0, 55)
MILLISECONDS = {"ours": 2.0, "cudnn": 3.0, "flash": 5.0, "fa3": 2.5}


class Small(AttentionSetting):
    lengths = (128, 128)


def _ours(setting, inputs):
    return TiledAttention()(inputs.q, inputs.k, inputs.v, None, setting.causal)[0]


def _wrong(setting, inputs):
    return TiledAttention(causal_shift=1)(inputs.q, inputs.k, inputs.v, None, setting.causal)[0]


def _cudnn(_setting, inputs):
    return inputs.v


def _flash(_setting, inputs):
    return inputs.v


def _fa3(_setting, inputs):
    return inputs.v


def _absent(_setting, _inputs):
    raise RuntimeError("no engine\nof many lines")


RACES = replace(races_of("fwd"), ours=_ours, others={CUDNN: _cudnn, FLASH: _flash}, peers={FA3: _fa3})


@pytest.fixture
def windows(monkeypatch):
    """The providers in the order in which they were timed."""
    timed = []

    def window(_races, call, setting, inputs, _calls):
        name = call.__name__.lstrip("_").replace("wrong", "ours")
        timed.append(name)
        return Window(MILLISECONDS[name], call(setting, inputs), STATE)

    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_device: None)
    monkeypatch.setattr(module, "time_window", window)
    return timed


def test_providers_take_turns_and_ratios_are_theirs_over_ours(windows):
    raced = race(RACES, Small("bf16", 64, True, 128), CPU, rounds=3, run=2)
    order = ["ours", "cudnn", "flash"]
    assert windows == [*order, *order, *order[::-1], *order]  # the first ones count calls
    assert raced.ratios == {CUDNN: 1.5, FLASH: 2.5}
    assert (raced.best, raced.absent, raced.failures, raced.state) == (CUDNN, {}, (), STATE)
    assert [timing.provider for timing in raced.timings] == [OURS, CUDNN, FLASH]
    assert raced.timings[0].tflops == pytest.approx(raced.setting.flops / 2.0 / 1e9)
    assert {timing.calls_per_round for timing in raced.timings} == {4, 3, 2}


def test_a_report_has_every_field(windows):
    raced = race(RACES, Small("bf16", 64, True, 128), CPU, rounds=2, kernels="portable", with_peers=True)
    found = raced.as_dict()
    assert windows.count("fa3") == 3
    assert set(found) == {
        *("name", "setting", "kernels", "run", "rounds", "timings", "ratio_to_cudnn", "ratio_to_flash"),
        *("ratio_to_fa3", "best", "ratio_to_best", "multiple_of_best", "state", "absent", "failures"),
        *("judged", "passed"),
    }
    assert set(found["setting"]) == {
        *("dtype", "head_dim", "causal", "seqlen", "batch", "heads", "head_dim_v", "group", "window"),
        "varlen",
    }
    assert found["name"] == "bf16_d64_causal_s128@portable"
    assert (found["best"], found["ratio_to_best"], found["ratio_to_fa3"]) == (FA3, 1.25, 1.25)
    assert found["multiple_of_best"] is None  # nobody measured this length
    assert found["passed"] is found["judged"] is True


def test_the_multiple_of_the_best_known_is_that_of_the_bars(windows):
    setting = AttentionSetting("bf16", 128, True, 4096)
    raced = race(RACES, Small("bf16", 64, True, 128), CPU, rounds=2)
    assert replace(raced, setting=setting).multiple_of_best == pytest.approx(1.5 / 1.35)
    assert replace(raced, setting=replace(setting, group=8)).multiple_of_best is None
    assert replace(raced, setting=setting, ratios={FLASH: 2.0}).multiple_of_best is None
    assert windows


def test_who_cannot_run_is_absent_with_the_reason(windows):
    races = replace(RACES, others={CUDNN: _absent, FLASH: _absent})
    raced = race(races, Small("bf16", 64, True, 128), CPU, rounds=2)
    assert raced.absent == {CUDNN: "no engine", FLASH: "no engine"}
    assert (raced.best, raced.as_dict()["ratio_to_best"], raced.ratios) == (None, None, {})
    assert set(windows) == {"ours"}
    with pytest.raises(RuntimeError, match="no engine"):
        race(replace(RACES, ours=_absent), Small("bf16", 64, True, 128), CPU, rounds=2)


def test_a_wrong_output_fails_the_race(windows):
    raced = race(replace(RACES, ours=_wrong), Small("bf16", 64, True, 128), CPU, rounds=2)
    assert raced.failures
    assert all("of the timed output" in failure for failure in raced.failures)
    assert raced.as_dict()["passed"] is False
    assert windows


def test_host_time_of_what_cannot_run_is_a_reason(monkeypatch):
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _device: None)
    calls = {"ours": HostCall(lambda: None), "other": HostCall(lambda: _absent(None, None))}
    ours, other = host_times(calls, CPU, batches=3)
    assert (ours.provider, ours.absent) == ("ours", "")
    assert 0 < ours.us_quartile_low <= ours.us <= ours.us_quartile_high
    assert (other.provider, other.us, other.absent) == ("other", None, "no engine")
