"""Speed of a call, as far as a test can hold it: the host's share, and no gross loss against cuDNN."""

from __future__ import annotations

import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("needs a GPU: torch.cuda.is_available() is False", allow_module_level=True)

from flash_attn3._native import Code
from flash_attn3.checks.kinds import Kind, kernels_on
from flash_attn3.checks.ops import op_checks, races_of
from flash_attn3.checks.speed.bars import PORTABLE_OVER_FLASH
from flash_attn3.checks.speed.host_time import BAR, host_times
from flash_attn3.checks.speed.providers import CUDNN, FLASH, OURS
from flash_attn3.checks.speed.race import race
from flash_attn3.checks.speed.race_settings import AttentionSetting

pytestmark = pytest.mark.gpu


def test_an_eager_call_takes_the_host_15_microseconds_at_most(device):
    """The least of three medians: what else the host is at can only make one longer."""
    calls = {
        name: call
        for check in op_checks()
        for name, call in check.host_calls(device).items()
        if name.startswith(OURS)
    }
    least = {}
    for _ in range(3):
        for found in host_times(calls, device):
            assert found.us is not None, found.absent
            least[found.provider] = min(found.us, least.get(found.provider, found.us))
    assert len(least) == len(calls) == 12
    assert all(us <= BAR for us in least.values()), least


def test_torch_is_timed_beside_ours(device):
    calls = {name: call for check in op_checks() for name, call in check.host_calls(device).items()}
    assert {CUDNN, FLASH} == {name for name in calls if not name.startswith(OURS)}
    for found in host_times(calls, device, batches=2):
        assert (found.us is None) == bool(found.absent)


@pytest.mark.parametrize("causal", [False, True])
def test_it_is_not_slower_than_cudnn_at_length(causal, device):
    raced = race(races_of("fwd"), AttentionSetting("bf16", 128, causal, 8192), device, rounds=7)
    if CUDNN not in raced.ratios:
        pytest.skip(f"cuDNN cannot run this here: {raced.absent[CUDNN]}")
    assert raced.ratios[CUDNN] >= 0.97  # the spread of such a race is 2 %


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("causal", [False, True])
def test_the_portable_kernels_keep_up_with_flash(causal, head_dim, device):
    if not any(kernel.code == "portable" for kernel in kernels_on(device, "fwd")):
        pytest.skip("this build has no portable cubin for this GPU")
    setting = AttentionSetting("bf16", head_dim, causal, 4096)
    with Kind(Code.PORTABLE).alone():
        raced = race(races_of("fwd"), setting, device, rounds=7, kernels="portable")
    assert raced.failures == ()
    assert FLASH in raced.ratios, raced.absent
    assert raced.ratios[FLASH] >= 0.97 * PORTABLE_OVER_FLASH  # the spread of such a race is 2 %
