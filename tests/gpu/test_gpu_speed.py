"""Speed of a call, as far as a test can hold it: the host's share, and no gross loss against cuDNN."""

from __future__ import annotations

import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("needs a GPU: torch.cuda.is_available() is False", allow_module_level=True)

from flash_attn3.checks.host_time import BAR, OURS, host_times
from flash_attn3.checks.race import race
from flash_attn3.checks.race_settings import Setting

pytestmark = pytest.mark.gpu


def test_an_eager_call_takes_the_host_15_microseconds_at_most(device):
    times = {found.provider: found.us for found in host_times(device)}
    ours = {provider: us for provider, us in times.items() if provider.startswith(OURS)}
    assert len(ours) == 11
    assert all(us is not None and us <= BAR for us in ours.values()), ours


@pytest.mark.parametrize("causal", [False, True])
def test_it_is_not_slower_than_cudnn_at_length(causal, device):
    raced = race(Setting("bf16", 128, causal, 8192), device, rounds=7)
    if raced.ratio_to_cudnn is None:
        pytest.skip(f"cuDNN cannot run this here: {raced.absent['cudnn']}")
    assert raced.ratio_to_cudnn >= 0.97  # the spread of such a race is 2 %
