"""What a public function was given reaches the operator of its gradient; errors there have the right type."""

from __future__ import annotations

import inspect

import pytest
import torch

from flash_attn3 import flash_attn_func, flash_attn_qkvpacked_func, flash_attn_varlen_func
from flash_attn3._ops import autograd
from flash_attn3._ops.bwd import BWD
from tests.flash_attn3.operator_calls import Calls

DEFAULTS = {
    "softmax_scale": None,
    "causal": False,
    "window_left": -1,
    "window_right": -1,
    "softcap": 0.0,
    "attention_chunk": 0,
    "deterministic": False,
    "sm_margin": 0,
}
OPTIONS = [
    ({}, {}),
    ({"softmax_scale": 0.3}, {"softmax_scale": 0.3}),
    ({"causal": True}, {"causal": True}),
    ({"window_size": (5, 2)}, {"window_left": 5, "window_right": 2}),
    ({"softcap": 15.0}, {"softcap": 15.0}),
    ({"attention_chunk": 8}, {"attention_chunk": 8}),
    ({"deterministic": True}, {"deterministic": True}),
    ({"sm_margin": 3}, {"sm_margin": 3}),
]


def _leaf(*shape, dtype=torch.bfloat16):
    return torch.empty(shape, dtype=dtype, device="meta", requires_grad=True)


def _index(size):
    return torch.empty(size, dtype=torch.int32, device="meta")


def _dense(**options):
    tensors = _leaf(2, 16, 4, 64), _leaf(2, 24, 2, 64), _leaf(2, 24, 2, 64)
    return tensors, flash_attn_func(*tensors, return_attn_probs=True, **options)


def _varlen(**options):
    tensors = _leaf(32, 4, 64), _leaf(48, 2, 64), _leaf(48, 2, 64)
    starts = _index(3)
    return tensors, flash_attn_varlen_func(
        *tensors, starts, starts, 16, 24, return_attn_probs=True, **options
    )


def _qkvpacked(**options):
    qkv = _leaf(2, 16, 3, 4, 64)
    return (qkv,), flash_attn_qkvpacked_func(qkv, return_attn_probs=True, **options)


FUNCTIONS = {"bwd": _dense, "bwd of packed sequences": _varlen, "bwd_into": _qkvpacked}


def _backward(function, **options):
    """Return the gradients of a call, with the name and the arguments of the operator that computes them."""
    leaves, (out, lse) = function(**options)
    with Calls() as calls:
        gradients = torch.autograd.grad((out, lse), leaves, (torch.empty_like(out), torch.empty_like(lse)))
    assert [(gradient.shape, gradient.dtype) for gradient in gradients] == [
        (leaf.shape, leaf.dtype) for leaf in leaves
    ]
    return calls.only


@pytest.mark.parametrize(("options", "expected"), OPTIONS, ids=lambda value: "-".join(value) or "none")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_options_reach_the_backward_operator(name, options, expected):
    operator, seen = _backward(FUNCTIONS[name], **options)
    assert operator == name.split()[0]
    assert {key: seen[key] for key in DEFAULTS} == DEFAULTS | expected


def test_lengths_reach_the_backward_operator():
    used_q, used_k = _index(2), _index(2)
    _, seen = _backward(_varlen, seqused_q=used_q, seqused_k=used_k)
    assert (seen["max_seqlen_q"], seen["max_seqlen_k"]) == (16, 24)
    assert seen["cu_seqlens_q"].shape == seen["cu_seqlens_k"].shape == (3,)
    assert (seen["seqused_q"].shape, seen["seqused_k"].shape) == ((2,), (2,))


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_sink_has_a_gradient_in_its_dtype(name, dtype):
    sink = _leaf(4, dtype=dtype)
    leaves, (out, _) = FUNCTIONS[name](learnable_sink=sink)
    with Calls() as calls:
        *_, dsink = torch.autograd.grad(out, (*leaves, sink), torch.empty_like(out))
    assert (dsink.shape, dsink.dtype) == ((4,), dtype)
    (seen,) = (arguments for operator, arguments in calls.seen if operator.startswith("bwd"))
    assert seen["sink"].dtype == torch.float32


def test_torchs_switch_makes_it_deterministic():
    torch.use_deterministic_algorithms(mode=True, warn_only=True)
    try:
        assert _backward(_dense)[1]["deterministic"] is True
    finally:
        torch.use_deterministic_algorithms(mode=False)


def test_a_loss_of_the_lse_alone_and_of_out_alone():
    leaves, (out, lse) = _dense()
    for result, has_dlse in ((out, False), (lse, True)):
        with Calls() as calls:
            torch.autograd.grad(result, leaves, torch.empty_like(result), retain_graph=True)
        (seen,) = (arguments for operator, arguments in calls.seen if operator == "bwd")
        assert (seen["dlse"] is not None) == has_dlse
        assert seen["dout"].shape == out.shape


def test_what_has_no_room_is_out_of_memory():
    q, k, v = (leaf.detach() for leaf in _dense()[0])
    arguments = (q, q, k, v, q, _leaf(2, 4, 16, dtype=torch.float32).detach(), None, None, False)
    said = "flash_attn3: workspace could not be allocated: {}"
    for reason in ("CUDA out of memory. Tried to allocate 9 GiB", "torch gave no reason"):
        error = BWD.explain(RuntimeError(said.format(reason)), *arguments)
        assert type(error) is torch.OutOfMemoryError
        assert str(error) == said.format(reason)
    fault = RuntimeError(said.format("CUDA error: an illegal memory access was encountered"))
    assert BWD.explain(fault, *arguments) is fault


def test_a_tensor_may_be_q_k_and_v_at_once():
    x = _leaf(2, 16, 4, 64)
    (gradient,) = torch.autograd.grad(flash_attn_func(x, x, x).sum(), x)
    assert gradient.shape == x.shape


@pytest.mark.parametrize("name", FUNCTIONS)
def test_recording_a_call_reads_no_signature(monkeypatch, name):
    """To bind arguments to one takes several times as long as the call itself."""

    def refuse(*_arguments, **_options):
        raise AssertionError("inspect.signature was called")

    monkeypatch.setattr(inspect, "signature", refuse)
    assert _backward(FUNCTIONS[name], causal=True)[1]["causal"] is True


def test_a_torch_without_its_private_names_records_calls_too(monkeypatch):
    monkeypatch.setattr(autograd, "_transforms_are_active", None)
    assert _backward(FUNCTIONS["bwd"], causal=True)[1]["causal"] is True


def test_transforms_of_torch_func_have_gradients():
    (q, k, v), _ = _dense()
    gradients_of = torch.func.grad(lambda *leaves: flash_attn_func(*leaves).sum(), argnums=(0, 1, 2))
    with Calls() as calls:
        gradients = gradients_of(q, k, v)
    assert [gradient.shape for gradient in gradients] == [q.shape, k.shape, v.shape]
    assert [operator for operator, _ in calls.seen] == ["fwd", "bwd"]
    with pytest.raises(NotImplementedError, match=r"does not support torch\.vmap"):
        torch.func.vmap(torch.func.grad(lambda q: flash_attn_func(q, k, v).sum()))(q[None])


def test_a_tensor_of_a_transform_that_has_ended_needs_no_gradient():
    """It says that it requires one, and torch's own operators take what is inside."""
    kept = []
    q, k, v = (leaf.detach() for leaf in _dense()[0])
    torch.func.grad(lambda q: (kept.append(q), q.sum())[1])(q)
    assert kept[0].requires_grad
    assert not (kept[0] * 2).requires_grad
    assert not flash_attn_func(kept[0], k, v).requires_grad
