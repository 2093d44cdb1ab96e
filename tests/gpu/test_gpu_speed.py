"""Speed of a call, as far as a test can hold it: the host's share, and no gross loss against cuDNN."""

from __future__ import annotations

import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("needs a GPU: torch.cuda.is_available() is False", allow_module_level=True)

from flash_attn3._native import Code
from flash_attn3.checks.kinds import kinds_on
from flash_attn3.checks.speed.bars import PORTABLE_OVER_FLASH
from flash_attn3.checks.speed.host_time import BAR, OURS, host_times
from flash_attn3.checks.speed.race import race
from flash_attn3.checks.speed.race_settings import Setting

pytestmark = pytest.mark.gpu


def test_an_eager_call_takes_the_host_15_microseconds_at_most(device):
    """The least of three medians: what else the host is at can only make one longer."""
    least = {}
    for _ in range(3):
        for found in host_times(device):
            if found.provider.startswith(OURS):
                assert found.us is not None, found.absent
                least[found.provider] = min(found.us, least.get(found.provider, found.us))
    assert len(least) == 11
    assert all(us <= BAR for us in least.values()), least


@pytest.mark.parametrize("causal", [False, True])
def test_it_is_not_slower_than_cudnn_at_length(causal, device):
    raced = race(Setting("bf16", 128, causal, 8192), device, rounds=7)
    if raced.ratio_to_cudnn is None:
        pytest.skip(f"cuDNN cannot run this here: {raced.absent['cudnn']}")
    assert raced.ratio_to_cudnn >= 0.97  # the spread of such a race is 2 %


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("causal", [False, True])
def test_the_portable_kernels_keep_up_with_flash(causal, head_dim, device):
    kinds = [kind for kind in kinds_on(device) if kind.code == Code.PORTABLE]
    if not kinds:
        pytest.skip("this build has no portable cubin for this GPU")
    with kinds[0].alone():
        raced = race(Setting("bf16", head_dim, causal, 4096), device, rounds=7, kernels="portable")
    assert raced.failures == ()
    assert raced.ratio_to_flash is not None, raced.absent
    assert raced.ratio_to_flash >= 0.97 * PORTABLE_OVER_FLASH  # the spread of such a race is 2 %
