"""The kernel that the library names for a call is the one that runs, for every kind of kernels."""

from __future__ import annotations

import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("needs a GPU: torch.cuda.is_available() is False", allow_module_level=True)

from torch.profiler import ProfilerActivity, profile

from flash_attn3._native import Code
from flash_attn3.checks.cases.backward import quick_backward_cases
from flash_attn3.checks.cases.case import AttentionCase
from flash_attn3.checks.cases.forms import FORMS, PAGED
from flash_attn3.checks.data.layouts import LAYOUTS, PACKED_LAYOUTS
from flash_attn3.checks.kinds import BESIDE, Kind, kernels_on, kinds_of
from flash_attn3.checks.ops import op_check, op_checks
from flash_attn3.checks.ops.combine import CombineCase
from flash_attn3.checks.ops.opcheck import Selection
from flash_attn3.checks.trial import Trial, run_case

# The profiler warns of its own parts, of others in every version.
pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]
DEVICE = torch.device("cuda", torch.cuda.current_device())
FORWARD, BACKWARD, COMBINE = op_check("fwd"), op_check("bwd"), op_check("combine")
KERNELS = {check.op: kernels_on(DEVICE, check.op) for check in op_checks()}
NAMES = {op: {kernel.name for kernel in kernels} for op, kernels in KERNELS.items()}
KINDS = kinds_of(KERNELS["fwd"])
# The driver takes seconds to compile the PTX of each.
COMPILED_KINDS = [kind for kind in kinds_of(KERNELS["bwd"]) if kind.code != Code.PTX]
CASE = AttentionCase("bf16", True, 1, 256, 256, 4, 4)
# One of each way in which a call reaches the choice of a kernel.
CASES = [
    CASE,
    AttentionCase("fp16", False, 2, 200, 300, 8, 2, head_dim=64),
    AttentionCase("bf16", True, 2, 200, 300, 8, 2, head_dim=64),
    AttentionCase("bf16", True, 1, 2500, 2500, 2, 1, head_dim=96),
    AttentionCase("bf16", False, 1, 300, 300, 2, 1, head_dim=64, window=(50, 20)),
    AttentionCase("bf16", False, 1, 300, 300, 2, 1, head_dim=64, window=(900, 900)),  # hides nothing
    AttentionCase("bf16", True, 1, 300, 300, 2, 1, head_dim=192, head_dim_v=128, softcap=20.0),
    AttentionCase("fp16", True, 1, 300, 300, 2, 1, head_dim=72, attention_chunk=50, sink=True),
    AttentionCase("bf16", True, 1, 1, 300, 8, 1, head_dim=64, head_dim_v=512),
    *(
        AttentionCase("bf16", True, 3, 300, 400, 4, 2, head_dim=64, form=form, page_size=size, seed=2)
        for form in FORMS
        for size in ((16,) if form in PAGED else (0,))
    ),
    *(
        AttentionCase("bf16", False, 2, 130, 130, 4, 4, head_dim=96, layout=layout)
        for layout in (*LAYOUTS, *PACKED_LAYOUTS)
        if layout != "far_batches"
    ),
]


def _kernels_run(call):
    """The names of kernels that a call ran on the device, in their order."""
    call()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        call()
        torch.cuda.synchronize()
    device_events = [e for e in profiled.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    return [event.name for event in sorted(device_events, key=lambda event: event.time_range.start)]


@pytest.fixture(scope="module")
def profiler():
    if not _kernels_run(lambda: torch.zeros(5, device="cuda").add(1)):
        pytest.skip("torch's profiler sees no kernels on this machine")


def _assert_named_kernel_runs(check, kind, case, device):
    trial = Trial(check, case, device)
    kernel = kind.find_kernel(trial.kernel)
    if kernel is None:
        pytest.skip(f"no {kind.name} kernel serves {case.name}")
    with kind.alone():
        names = _kernels_run(lambda: check.call(check.function, case, trial.inputs))
    assert [name for name in names if name in NAMES[check.op]] == [*filter(None, kernel.split(BESIDE))], names


@pytest.mark.usefixtures("profiler")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_the_kernel_that_the_library_names_runs(kind, case, device):
    _assert_named_kernel_runs(FORWARD, kind, case, device)


@pytest.mark.usefixtures("profiler")
@pytest.mark.parametrize("case", quick_backward_cases()[::20], ids=lambda case: case.name)
@pytest.mark.parametrize("kind", COMPILED_KINDS, ids=lambda kind: kind.name)
def test_the_kernels_of_a_gradient_that_the_library_names_run(kind, case, device):
    _assert_named_kernel_runs(BACKWARD, kind, case, device)


@pytest.mark.usefixtures("profiler")
@pytest.mark.parametrize("kind", kinds_of(KERNELS["combine"]), ids=lambda kind: kind.name)
def test_the_combine_kernel_that_the_library_names_runs(kind, device):
    case = CombineCase("bf16", 17, 2, 100, 3, 128, empty="some", layout="strided", lse_layout="contiguous")
    _assert_named_kernel_runs(COMBINE, kind, case, device)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.as_long], ids=lambda kind: kind.name)
def test_every_kind_serves_a_plain_case(kind, device):
    assert kind.find_kernel(Trial(FORWARD, CASE, device).kernel) in {
        kernel.name for kernel in KERNELS["fwd"] if kernel.code == kind.name
    }


@pytest.mark.usefixtures("profiler")
def test_the_preferred_kernels_run_by_themselves(device):
    trial = Trial(FORWARD, CASE, device)
    preferred = {kernel.name for kernel in KERNELS["fwd"] if kernel.code == KINDS[0].name}
    assert trial.kernel() in preferred
    names = _kernels_run(lambda: FORWARD.call(FORWARD.function, CASE, trial.inputs))
    assert [name for name in names if name in preferred] == [trial.kernel()], names


def test_the_cases_reach_every_compiled_kernel(device):
    """Of each code, those for the highest compute capability that the GPU can run; no call takes others."""
    found = set()
    for check in op_checks():
        kinds = [kind for kind in kinds_of(KERNELS[check.op]) if kind.name not in {"ptx", "ptx_long"}]
        for case in check.cases(Selection(samples=0)):
            if case.params().get("layout") == "far_batches":
                continue
            kernel = Trial(check, case, device).kernel
            for kind in kinds:
                found |= {*(kind.find_kernel(kernel) or "").split(BESIDE)}
    preferred_sm = {}
    for kernel in (kernel for kernels in KERNELS.values() for kernel in kernels if kernel.code != "ptx"):
        key = (kernel.op, kernel.code)
        preferred_sm[key] = max(kernel.sm, preferred_sm.get(key, 0))
    reachable = {
        kernel.name
        for kernels in KERNELS.values()
        for kernel in kernels
        if kernel.code != "ptx" and kernel.sm == preferred_sm[kernel.op, kernel.code]
    }
    assert reachable - found == set()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("head_dims", [(64, 64), (128, 128), (192, 128), (256, 256), (64, 512)], ids=str)
def test_each_kind_is_right(kind, head_dims, device):
    head_dim, head_dim_v = head_dims
    case = AttentionCase("bf16", True, 2, 200, 300, 8, 2, head_dim=head_dim, head_dim_v=head_dim_v)
    if kind.find_kernel(Trial(FORWARD, case, device).kernel) is None:
        pytest.skip(f"no {kind.name} kernel takes head_dim {head_dim} with head_dim_v {head_dim_v}")
    with kind.alone():
        assert run_case(FORWARD, case, device).failures == ()


@pytest.mark.parametrize("kind", kinds_of(KERNELS["combine"]), ids=lambda kind: kind.name)
@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_each_kind_combines(kind, dtype, device):
    with kind.alone():
        case = CombineCase(dtype, 17, 2, 100, 3, 128, empty="some")
        assert run_case(COMBINE, case, device).failures == ()


def test_a_kind_that_there_is_not_refuses(device):
    kind = Kind(KINDS[0].code)
    case = AttentionCase("bf16", False, 1, 9, 9, 1, 1, head_dim=64, head_dim_v=513)
    assert kind.find_kernel(Trial(FORWARD, case, device).kernel) is None
    with kind.alone():
        outcome = run_case(FORWARD, case, device)
    assert not outcome.passed
    assert "raised" in outcome.failures[0]
