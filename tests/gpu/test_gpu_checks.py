"""A selection of the checks that `selftest` and `validate` run, one test each."""

from __future__ import annotations

import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("needs a GPU: torch.cuda.is_available() is False", allow_module_level=True)

from flash_attn3.__main__ import main
from flash_attn3.checks.behaviour.behaviour import run_behaviour
from flash_attn3.checks.behaviour.fresh_process import run_fresh
from flash_attn3.checks.cases.case import AttentionCase
from flash_attn3.checks.cases.sampled import sampled_cases
from flash_attn3.checks.data.call import public_forward
from flash_attn3.checks.kinds import kernels_on
from flash_attn3.checks.ops import op_check, op_checks, races_of
from flash_attn3.checks.ops.opcheck import Selection
from flash_attn3.checks.speed.race import race
from flash_attn3.checks.speed.race_settings import AttentionSetting
from flash_attn3.checks.trial import run_case

pytestmark = pytest.mark.gpu

DEVICE = torch.device("cuda", torch.cuda.current_device())
CHECKS = [check for check in op_checks() if kernels_on(DEVICE, check.op)]
FORWARD = op_check("fwd")


def _each(items_of):
    """Return a parameter (check, item) for each item of each operator, with the item's name in its id."""
    return [
        pytest.param(check, item, id=f"{check.op}-{getattr(item, 'name', item)}")
        for check in CHECKS
        for item in items_of(check)
    ]


@pytest.mark.parametrize(("check", "case"), _each(lambda check: check.cases(Selection(quick=True))))
def test_case(check, case, device):
    assert run_case(check, case, device).failures == ()


@pytest.mark.parametrize("case", sampled_cases(300, 20261122), ids=lambda case: case.name)
def test_sampled_case(case, device):
    assert run_case(FORWARD, case, device).failures == ()


@pytest.mark.parametrize(("check", "memory"), _each(lambda check: check.memory()))
def test_memory(check, memory, device):
    assert memory.run(check.function, device).failures == ()


@pytest.mark.parametrize(("check", "name"), _each(lambda check: [*check.behaviours, *check.mixed_behaviours]))
def test_behaviour(check, name, device):
    behaviour = {**check.behaviours, **check.mixed_behaviours}[name]
    assert run_behaviour(name, behaviour, check.function, device).failures == ()


@pytest.mark.parametrize(("check", "name"), _each(lambda check: check.fresh))
def test_fresh_process(check, name):
    assert run_fresh(name, check.fresh[name]).failures == ()


@pytest.mark.parametrize(
    "setting",
    [
        AttentionSetting("bf16", 128, False, 2048),
        AttentionSetting("bf16", 128, True, 2048),
        AttentionSetting("bf16", 192, True, 2048, head_dim_v=128),
        AttentionSetting("bf16", 128, True, 2048, group=8),
        AttentionSetting("bf16", 128, True, 4096, window=1024),
        AttentionSetting("bf16", 128, True, 16384, varlen=True),
    ],
    ids=lambda setting: setting.name,
)
def test_a_timed_output_is_right(setting, device):
    raced = race(races_of("fwd"), setting, device, rounds=3)
    assert raced.failures == ()
    assert len(raced.timings) > 1, raced.absent


def test_a_wrong_kernel_fails_on_this_gpu_too(device):
    case = AttentionCase("bf16", True, 2, 200, 300, 4, 2)

    def wrong(q, k, v, scale, causal):
        out, lse = public_forward(q, k, v, scale, causal)
        return out * 1.02, lse

    assert not run_case(FORWARD, case, device, wrong).passed


def test_a_write_outside_is_found_on_this_gpu_too(device):
    """The last of the memory checks, with a function that writes one element behind the rows of out."""
    memory = FORWARD.memory()[-1]

    def wrong(*arguments, out=None, **options):
        written, lse = (
            public_forward(*arguments, **options)
            if out is None
            else public_forward(*arguments, out=out, **options)
        )
        if out is not None:
            end = sum((size - 1) * stride for size, stride in zip(out.shape, out.stride(), strict=True))
            out.as_strided((1,), (1,), out.storage_offset() + end + 1).fill_(0)
        return written, lse

    assert memory.run(public_forward, device).passed
    assert not memory.run(wrong, device).passed


def test_the_package_says_that_it_can_run():
    assert main([]) == 0
