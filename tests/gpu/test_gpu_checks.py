"""A selection of the checks that `selftest` and `validate` run, one test each."""

from __future__ import annotations

import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("needs a GPU: torch.cuda.is_available() is False", allow_module_level=True)

from flash_attn3 import flash_attn_combine
from flash_attn3.__main__ import main
from flash_attn3.checks.behaviour.canary import memory_cases, out_cases, run_memory_case, run_out_case
from flash_attn3.checks.behaviour.fresh_process import FRESH, run_fresh
from flash_attn3.checks.behaviour.promises import BEHAVIOURS, MIXED_BEHAVIOURS, run_behaviour
from flash_attn3.checks.cases.case import Case
from flash_attn3.checks.cases.catalogue import quick_cases
from flash_attn3.checks.cases.sampled import sampled_cases
from flash_attn3.checks.ops.combine import combine_cases, run_combine_case
from flash_attn3.checks.ops.fwd import public_forward, run_case
from flash_attn3.checks.speed.race import race
from flash_attn3.checks.speed.race_settings import Setting

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("case", [*quick_cases(), *sampled_cases(300, 20261122)], ids=lambda case: case.name)
def test_correctness(case, device):
    assert run_case(case, public_forward, device).failures == ()


@pytest.mark.parametrize(("case", "out_layout"), memory_cases(), ids=lambda part: getattr(part, "name", part))
def test_memory(case, out_layout, device):
    assert run_memory_case(case, out_layout, public_forward, device).failures == ()


@pytest.mark.parametrize(("case", "out_layout"), out_cases(), ids=lambda part: getattr(part, "name", part))
def test_memory_of_out(case, out_layout, device):
    assert run_out_case(case, out_layout, public_forward, device).failures == ()


@pytest.mark.parametrize("case", combine_cases(quick=True), ids=lambda case: case.name)
def test_combine(case, device):
    assert run_combine_case(case, flash_attn_combine, device).failures == ()


@pytest.mark.parametrize("name", [*BEHAVIOURS, *MIXED_BEHAVIOURS])
def test_behaviour(name, device):
    assert run_behaviour(name, public_forward, device).failures == ()


@pytest.mark.parametrize("name", FRESH)
def test_fresh_process(name):
    assert run_fresh(name).failures == ()


@pytest.mark.parametrize(
    "setting",
    [
        Setting("bf16", 128, False, 2048),
        Setting("bf16", 128, True, 2048),
        Setting("bf16", 192, True, 2048, head_dim_v=128),
        Setting("bf16", 128, True, 2048, group=8),
        Setting("bf16", 128, True, 4096, window=1024),
        Setting("bf16", 128, True, 16384, varlen=True),
    ],
    ids=lambda setting: setting.name,
)
def test_a_timed_output_is_right(setting, device):
    raced = race(setting, device, rounds=3)
    assert raced.failures == ()
    assert len(raced.timings) > 1, raced.absent


def test_a_wrong_kernel_fails_on_this_gpu_too(device):
    case = Case("bf16", True, 2, 200, 300, 4, 2)

    def wrong(q, k, v, scale, causal):
        out, lse = public_forward(q, k, v, scale, causal)
        return out * 1.02, lse

    assert not run_case(case, wrong, device).passed


def test_the_package_says_that_it_can_run():
    assert main([]) == 0
