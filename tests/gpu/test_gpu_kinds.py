"""That the kind of kernels which the checks ask for is the one that runs."""

from __future__ import annotations

import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("needs a GPU: torch.cuda.is_available() is False", allow_module_level=True)

from torch.profiler import ProfilerActivity, profile

from flash_attn3 import flash_attn_combine, flash_attn_func
from flash_attn3.checks.cases.case import Case
from flash_attn3.checks.kinds import kinds_on
from flash_attn3.checks.ops.combine import CombineCase, run_combine_case
from flash_attn3.checks.ops.fwd import public_forward, run_case

# The profiler warns of its own parts, of others in every version.
pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]
KINDS = kinds_on(torch.device("cuda", torch.cuda.current_device()))


def _kernels_run(call):
    """The names of kernels that a call ran on the device."""
    call()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        call()
        torch.cuda.synchronize()
    return [event.name for event in profiled.events() if event.device_type == torch.autograd.DeviceType.CUDA]


@pytest.fixture(scope="module")
def profiler():
    if not _kernels_run(lambda: torch.zeros(5, device="cuda").add(1)):
        pytest.skip("torch's profiler sees no kernels on this machine")


@pytest.mark.usefixtures("profiler")
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_kind_alone_is_the_one_that_runs(kind, device):
    q = torch.randn(1, 256, 4, 128, device=device, dtype=torch.bfloat16)
    with kind.alone():
        names = _kernels_run(lambda: flash_attn_func(q, q, q, causal=True))
    assert [name for name in names if name in {kernel.name for kernel in kind.kernels}], names


@pytest.mark.usefixtures("profiler")
def test_the_kernels_for_exactly_this_gpu_run_by_themselves(device):
    q = torch.randn(1, 256, 4, 128, device=device, dtype=torch.bfloat16)
    names = _kernels_run(lambda: flash_attn_func(q, q, q, causal=True))
    assert [name for name in names if name in {kernel.name for kernel in KINDS[0].kernels}], names


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("head_dims", [(64, 64), (128, 128), (192, 128), (256, 256), (64, 512)], ids=str)
def test_each_kind_is_right(kind, head_dims, device):
    head_dim, head_dim_v = head_dims
    case = Case("bf16", True, 2, 200, 300, 8, 2, head_dim=head_dim, head_dim_v=head_dim_v)
    if not kind.covers(case):
        pytest.skip(f"no {kind.name} kernel takes head_dim {head_dim} with head_dim_v {head_dim_v}")
    with kind.alone():
        assert run_case(case, public_forward, device).failures == ()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.combines], ids=lambda kind: kind.name)
@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_each_kind_combines(kind, dtype, device):
    with kind.alone():
        case = CombineCase(dtype, 17, 2, 100, 3, 128, empty="some")
        assert run_combine_case(case, flash_attn_combine, device).failures == ()


def test_a_kind_that_there_is_not_refuses(device):
    exact = KINDS[0]
    case = Case("bf16", False, 1, 9, 9, 1, 1, head_dim=64, head_dim_v=512)
    if exact.covers(case):
        pytest.skip(f"the {exact.name} kernels take everything")
    with exact.alone():
        outcome = run_case(case, public_forward, device)
    assert not outcome.passed
    assert "raised" in outcome.failures[0]
