"""Races of gradients, on this machine's CPU and with times that the test invents."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from flash_attn3._native import Code
from flash_attn3.checks.ops import races_of
from flash_attn3.checks.speed import race as module
from flash_attn3.checks.speed import race_attention, race_backward
from flash_attn3.checks.speed.gpu_state import GpuState
from flash_attn3.checks.speed.providers import CUDNN, FLASH, OURS
from flash_attn3.checks.speed.race import Window, race
from flash_attn3.checks.speed.race_settings import BackwardSetting

CPU = torch.device("cpu")
MILLISECONDS = {"call_ours": 2.0, "call_cudnn": 3.0}
RACES = races_of("bwd")


class Small(BackwardSetting):
    lengths = (96, 96)


SETTING = Small("bf16", 64, True, 96)


def _heads_first(setting, inputs):
    q, k, v = (tensor.transpose(1, 2) for tensor in (inputs.q, inputs.k, inputs.v))
    return scaled_dot_product_attention(q, k, v, is_causal=setting.causal)


def _no_engine(_setting, _inputs):
    raise RuntimeError("no engine\nof many lines")


@pytest.fixture
def forwards(monkeypatch):
    """Forward calls that a CPU can run; those of ours with their options. Flash cannot run."""
    calls = []

    def ours(q, k, v, _scale, causal, **options):
        calls.append(options)
        setting = replace(SETTING, causal=causal)
        return _heads_first(setting, race_attention.RaceInputs(q, k, v, None)).transpose(1, 2), None

    monkeypatch.setattr(race_backward, "public_forward", ours)
    monkeypatch.setattr(race_attention, "call_cudnn", _heads_first)
    monkeypatch.setattr(race_attention, "call_flash", _no_engine)
    return calls


@pytest.fixture
def windows(monkeypatch, forwards):
    """The providers in the order in which they were timed."""
    timed = []

    def window(_races, call, setting, inputs, _calls):
        before = len(forwards)
        results = call(setting, inputs)
        assert len(forwards) == before  # the forward call is not timed
        timed.append(call.__name__)
        return Window(MILLISECONDS[call.__name__], results, GpuState(None, None, None))

    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_device: None)
    monkeypatch.setattr(module, "time_window", window)
    return timed


def test_the_gradient_alone_is_raced_and_judged(windows):
    raced = race(RACES, SETTING, CPU, rounds=2)
    assert raced.failures == ()
    assert raced.ratios == {CUDNN: 1.5}
    assert raced.absent == {FLASH: "no engine"}
    assert [timing.provider for timing in raced.timings] == [OURS, CUDNN]
    assert windows.count("call_ours") == windows.count("call_cudnn") == 3
    forward = 2 * 2 * 2 * (96**2 / 2) * SETTING.heads * 64
    assert raced.timings[0].tflops == pytest.approx(2.5 * forward / 2.0 / 1e9)


def test_its_ratios_are_recorded_without_a_bar(windows):
    found = race(RACES, SETTING, CPU, rounds=2, kernels="portable").as_dict()
    assert windows
    assert (found["judged"], found["passed"], found["ratio_to_cudnn"]) == (False, True, 1.5)
    assert found["name"] == "bwd_bf16_d64_causal_s96@portable"
    assert (found["setting"]["op"], found["setting"]["deterministic"]) == ("bwd", False)


def test_ours_adds_in_order_where_the_setting_says_so(forwards):
    for deterministic in (False, True):
        race_backward.random_inputs(replace(SETTING, deterministic=deterministic), CPU)
    assert forwards == [{"deterministic": False}, {"deterministic": True}]


def test_the_gradients_are_those_of_their_inputs(forwards):
    inputs = race_backward.random_inputs(SETTING, CPU)
    ours, cudnn = (call(SETTING, inputs) for call in (race_backward.call_ours, race_backward.call_cudnn))
    assert [tensor.shape for tensor in ours] == [tensor.shape for tensor in inputs.leaves]
    for one, other in zip(ours, cudnn, strict=True):
        torch.testing.assert_close(one, other)
    empty = race_backward.new_gradients(inputs)
    assert [tensor.shape for tensor in empty] == [tensor.shape for tensor in ours]
    assert all(bool(tensor.isnan().all()) for tensor in empty)
    assert forwards


@pytest.mark.parametrize(("place", "name"), [*enumerate(("dq", "dk", "dv"))])
@pytest.mark.parametrize("wrong", [0.0, 3.0, torch.nan])
def test_a_wrong_gradient_fails_the_race(forwards, place, name, wrong):
    inputs = race_backward.random_inputs(SETTING, CPU)
    found = [tensor.clone() for tensor in race_backward.call_ours(SETTING, inputs)]
    found[place][-1, 40] *= wrong
    failures = race_backward.judge_head(SETTING, inputs, tuple(found))
    assert failures
    assert all(text.startswith(f"the last head of the timed gradients: {name}") for text in failures)
    assert forwards


def test_it_needs_a_forward_call_of_ours(windows, monkeypatch):
    monkeypatch.setattr(race_backward, "public_forward", lambda *_arguments, **_options: _no_engine(0, 0))
    with pytest.raises(RuntimeError, match="no engine"):
        race(RACES, SETTING, CPU, rounds=2)
    assert windows == []


def test_portable_kernels_are_raced_too():
    names = {setting.name for setting in RACES.restricted[Code.PORTABLE]()}
    assert len(names) == 12
    assert "bwd_bf16_d128_causal_s16384" in names
