"""The operators ``flash_attn_3::`` on tensors without data: what reaches the kernels, and refusals."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import torch
from torch._dynamo.backends.common import aot_autograd
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.library import opcheck

import flash_attn_interface
from tests.flash_attn3.dataless import SHAPE_Q, dense, empty, index
from tests.flash_attn3.operator_calls import Calls

# torch.compile instantiates every autograd.Function that it traces, which torch itself deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
if TYPE_CHECKING:
    from pathlib import Path

fwd = torch.ops.flash_attn_3.fwd
NAMES = [argument.name for argument in fwd.default._schema.arguments]
LSE_SHAPE = (2, 4, 16)
NO_KERNEL = (*("k_new", "v_new", "q_v", "kv_batch_idx", "leftpad_k", "rotary_cos", "rotary_sin"),)


def _described(tensors):
    return [(tuple(t.shape), t.dtype, t.device.type) for t in tensors]


def _by_position(**given):
    """Return all 34 arguments, the way PyTorch passes them."""
    defaults = [argument.default_value for argument in fwd.default._schema.arguments]
    return [given.get(name, default) for name, default in zip(NAMES, defaults, strict=True)]


def test_forward_returns_out_and_lse_and_two_empty_tensors():
    expected = [(SHAPE_Q, torch.bfloat16), (LSE_SHAPE, torch.float32), ((0,), torch.float32)]
    wanted = [(*pair, "meta") for pair in (*expected, expected[-1])]
    assert _described(fwd(*dense())) == wanted
    assert _described(flash_attn_interface._flash_attn_forward(*dense())) == wanted
    with FakeTensorMode():
        q, k, v = (torch.empty(t.shape, dtype=t.dtype, device="cuda") for t in dense())
        assert _described(fwd(q, k, v, is_causal=True)) == [(*pair[:2], "cuda") for pair in wanted]


def test_every_argument_of_a_dense_call_arrives():
    q, k, v = dense()
    out = empty((2, 4, 16, 64)).transpose(1, 2)  # a BSHD view of BHSD memory, as PyTorch passes it
    options = {
        "softmax_scale": 0.3,
        "is_causal": True,
        "window_size_left": 7,
        "window_size_right": 3,
        "attention_chunk": 8,
        "softcap": 15.0,
        "is_rotary_interleaved": True,
        "scheduler_metadata": index(0),
        "num_splits": 3,
        "pack_gqa": True,
        "sm_margin": 4,
    }
    arguments = _by_position(q=q, k=k, v=v, out=out, max_seqlen_q=16, max_seqlen_k=24, **options)
    assert len(arguments) == 34
    with Calls() as calls:
        returned = fwd(*arguments)
    name, seen = calls.only
    assert name == "fwd_into"
    assert returned[0] is out
    assert seen["out"] is out
    assert all(seen[name] is tensor for name, tensor in (("q", q), ("k", k), ("v", v)))
    assert _numbers(seen) == [0.3, True, 7, 3, 8, 15.0, 4]


def test_every_argument_of_a_call_on_packed_sequences_arrives():
    q, k, v = (tensor.flatten(0, 1) for tensor in dense())
    lengths = {
        "cu_seqlens_q": index(3),
        "cu_seqlens_k": index(3),
        "seqused_q": index(2),
        "seqused_k": index(2),
    }
    with Calls() as calls:
        out, lse, *_ = fwd(q, k, v, **lengths, max_seqlen_q=9, max_seqlen_k=11, window_size_left=5)
    assert (tuple(out.shape), tuple(lse.shape)) == ((32, 4, 64), (4, 32))
    name, seen = calls.only
    assert name == "fwd_general"
    assert {name: seen[name] for name in lengths} == lengths
    assert (seen["max_seqlen_q"], seen["max_seqlen_k"]) == (9, 11)
    assert _numbers(seen) == [None, False, 5, -1, 0, 0.0, 0]


@pytest.mark.parametrize("compiled", [False, True])
def test_the_longest_lengths_may_be_tensors(compiled: bool):
    """Those of the function; the operator takes numbers."""

    def attention(q, k, v, starts, longest):
        lengths = {"cu_seqlens_q": starts, "cu_seqlens_k": starts}
        return flash_attn_interface._flash_attn_forward(
            q, k, v, **lengths, max_seqlen_q=longest, max_seqlen_k=longest
        )

    torch._dynamo.reset()
    called = torch.compile(attention, backend="aot_eager", fullgraph=True) if compiled else attention
    arguments = *(tensor.flatten(0, 1) for tensor in dense()), index(3), index()
    assert tuple(called(*arguments)[0].shape) == (32, 4, 64)
    with Calls() as calls:
        attention(*arguments)
    assert [calls.only[1][name] for name in ("max_seqlen_q", "max_seqlen_k")] == [32, 48]


def test_pages_arrive():
    q, table, used = empty(SHAPE_Q), index(2, 5), index(2)
    pages = empty((12, 4, 2, 64))
    with Calls() as calls:
        fwd(q, pages, pages, page_table=table, seqused_k=used)
    _, seen = calls.only
    assert (seen["page_table"], seen["seqused_k"]) == (table, used)


def _numbers(seen):
    window = ("window_left", "window_right")
    return [
        seen[name] for name in ("softmax_scale", "causal", *window, "attention_chunk", "softcap", "sm_margin")
    ]


@pytest.mark.parametrize("num_splits", [0, 1, 2, 128])
def test_any_bound_on_splits_gives_the_same_call(num_splits: int):
    with Calls() as calls:
        results = fwd(*dense(), num_splits=num_splits)
    assert calls.only[0] == "fwd"
    assert _described(results[2:]) == [((0,), torch.float32, "meta")] * 2


@pytest.mark.parametrize("name", NO_KERNEL)
def test_what_has_no_kernel_is_refused_by_name(name: str):
    with pytest.raises(NotImplementedError, match=rf"^{'qv' if name == 'q_v' else name} has no kernel in "):
        fwd(*_by_position(**dict(zip("qkv", dense(), strict=True)), **{name: empty((1,))}))


def test_fp8_is_refused():
    q, k, v = (tensor.to(torch.float8_e4m3fn) for tensor in dense())
    with pytest.raises(NotImplementedError, match=r"^q has no FP8 kernel"):
        fwd(q, k, v)


def test_packed_sequences_need_their_longest_length():
    q, k, v = (tensor.flatten(0, 1) for tensor in dense())
    with pytest.raises(ValueError, match=r"^max_seqlen_k must be given with cu_seqlens_k; it is None"):
        fwd(q, k, v, cu_seqlens_q=index(3), cu_seqlens_k=index(3), max_seqlen_q=16)


def test_tensors_off_the_gpu_are_named():
    q, k, v = (torch.zeros(tensor.shape, dtype=tensor.dtype) for tensor in dense())
    for call in (fwd, flash_attn_interface._flash_attn_forward):
        with pytest.raises(ValueError, match=r"^q must be a CUDA tensor; it is on cpu$"):
            call(q, k, v)


def test_backward_writes_gradients_in_place():
    q, k, v = dense()
    lse, gradients = empty(LSE_SHAPE, torch.float32), [torch.empty_like(tensor) for tensor in (q, k, v)]
    by_name = dict(zip(("dq", "dk", "dv"), gradients, strict=True))
    with Calls() as calls:
        unused = torch.ops.flash_attn_3.bwd(q, q, k, v, q, lse, *gradients, is_causal=True)
        flash_attn_interface._flash_attn_backward(q, q, k, v, q, lse, **by_name, is_causal=True)
    assert [tensor.numel() for tensor in unused] == [0] * 5
    assert [name for name, _ in calls.seen] == ["bwd_into"] * 2
    for _, arguments in calls.seen:
        assert all(arguments[name] is gradient for name, gradient in by_name.items())
        assert arguments["causal"] is True


def test_backward_of_packed_sequences_needs_their_longest_length():
    q, k, v = (tensor.flatten(0, 1) for tensor in dense())
    lse, starts = empty((4, 32), torch.float32), index(3)
    with pytest.raises(ValueError, match=r"^max_seqlen_k must be given with cu_seqlens_k; it is None"):
        flash_attn_interface._flash_attn_backward(
            *(q, q, k, v, q, lse), cu_seqlens_q=starts, cu_seqlens_k=starts, max_seqlen_q=16
        )


def test_backward_off_the_gpu_is_named():
    q, k, v = (torch.zeros(tensor.shape, dtype=tensor.dtype) for tensor in dense())
    lse = torch.zeros(LSE_SHAPE)
    for call in (torch.ops.flash_attn_3.bwd, flash_attn_interface._flash_attn_backward):
        with pytest.raises(ValueError, match=r"^q must be a CUDA tensor; it is on cpu$"):
            call(q, q, k, v, q, lse)


def test_a_wrong_gradient_buffer_is_named():
    q, k, v = dense()
    lse = empty(LSE_SHAPE, torch.float32)
    with pytest.raises(ValueError, match=r"^dk must"):
        torch.ops.flash_attn_3.bwd(q, q, k, v, q, lse, torch.empty_like(q), k[:, 1:], torch.empty_like(v))


def test_a_gradient_reaches_the_backward_pass_of_flash_attn3():
    q, k, v = dense()
    q.requires_grad_()
    out, lse, *rest = fwd(q, k, v)
    assert (out.requires_grad, lse.requires_grad) == (True, True)
    assert not any(tensor.requires_grad for tensor in rest)
    with Calls() as calls:
        out.float().sum().backward()
    assert {name for name, _ in calls.seen} == {"bwd"}
    with torch.no_grad():
        assert not fwd(q, k, v)[0].requires_grad


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("into", [False, True])
def test_compiled_it_becomes_the_operators_of_flash_attn3(mode, into: bool):
    graphs = []

    def keep(graph, _inputs):
        graphs.append(graph)
        return graph.forward

    def attention(q, k, v):
        out = torch.empty_like(q.transpose(1, 2)).transpose(1, 2) if into else None
        out, lse, *_ = fwd(q, k, v, out=out, is_causal=True)
        return out * 2, lse

    torch._dynamo.reset()
    compiled = torch.compile(attention, backend=aot_autograd(fw_compiler=keep), fullgraph=True)
    with mode():
        out, lse = compiled(*dense())
    assert _described((out, lse)) == [(SHAPE_Q, torch.bfloat16, "meta"), (LSE_SHAPE, torch.float32, "meta")]
    (graph,) = graphs
    assert f"flash_attn3.{'fwd_into' if into else 'fwd'}.default" in graph.code
    assert "flash_attn_3" not in graph.code


@pytest.mark.parametrize("into", [False, True])
@pytest.mark.parametrize(
    "check", ["test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic"]
)
def test_opcheck(check: str, into: bool):
    q, k, v = dense()
    arguments = (q, k, v, None, None, None, torch.empty_like(q)) if into else (q, k, v)
    opcheck(fwd.default, arguments, test_utils=check)


def test_combine_takes_what_flash_attn3_takes():
    partial, lse = empty((3, *SHAPE_Q), torch.float32), empty((3, 2, 4, 16), torch.float32).transpose(2, 3)
    expected = [(SHAPE_Q, torch.float16, "meta"), ((2, 16, 4), torch.float32, "meta")]
    combine = torch.ops.flash_attn_3.fwd_combine
    assert _described(combine(partial, lse, None, torch.float16)) == expected
    out = empty(SHAPE_Q, torch.float16)
    into = combine(partial, lse, out)
    assert into[0] is out
    assert _described(into) == expected


def test_there_is_nothing_to_plan():
    used = torch.ones(2, dtype=torch.int32)
    plan = flash_attn_interface.get_scheduler_metadata(2, 1, 100, 8, 2, 128, used, causal=True, num_splits=7)
    assert (plan.shape, plan.dtype, plan.device) == ((0,), torch.int32, used.device)


def test_the_operator_plans_nothing_either():
    used = torch.ones(2, dtype=torch.int32)
    plan = torch.ops.flash_attn_3.get_scheduler_metadata(
        2, 1, 100, 8, 2, 128, 128, torch.bfloat16, used, leftpad_k=used
    )
    assert (plan.shape, plan.dtype, plan.device) == ((0,), torch.int32, used.device)


def test_a_plan_that_leaves_room_for_new_keys_serves_a_call_without_them():
    """The test-suite of FlashAttention-3 plans its calls so."""
    q, k, v = dense()
    used = torch.ones(2, dtype=torch.int32)
    plan = flash_attn_interface.get_scheduler_metadata(
        *(2, 16, 24, 4, 2, 64, used), cu_seqlens_k_new=used, max_seqlen_k_new=8
    )
    with Calls() as calls:
        flash_attn_interface.flash_attn_with_kvcache(q, k, v, cache_seqlens=index(2), scheduler_metadata=plan)
    assert calls.only[0] == "fwd_general"


@pytest.mark.slow
@pytest.mark.parametrize(
    "other",
    [
        'torch.library.Library("flash_attn_3", "FRAGMENT").define("fwd(Tensor q) -> Tensor")',
        'torch.library.Library("flash_attn_3", "DEF").define("other(Tensor q) -> Tensor")',
    ],
)
def test_another_provider_in_the_process_is_one_clear_error(other: str, compat_path: str, tmp_path: Path):
    library, define = other.split(".define")
    program = f"import torch\nlibrary = {library}\nlibrary.define{define}\nimport flash_attn_interface\n"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={"PYTHONPATH": compat_path},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "ImportError: flash_attn_3 of flash_attn3: this process already has " in done.stderr
    assert "import only one of them" in done.stderr
    assert "During handling" not in done.stderr
