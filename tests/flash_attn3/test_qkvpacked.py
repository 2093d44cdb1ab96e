"""Attention on q, k and v in one tensor, without data. test_arguments.py has its errors."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from flash_attn3 import flash_attn_qkvpacked_func
from tests.flash_attn3.operator_calls import Calls

# torch's own, while it traces an autograd.Function
pytestmark = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")


def _empty(*shape, **options):
    return torch.empty(shape, device="meta", dtype=torch.bfloat16, **options)


@pytest.mark.parametrize("head_dim", [128, 59])
@pytest.mark.parametrize(("between", "num_heads_q"), [((3, 4), None), ((8,), 4), ((6,), 4)])
@pytest.mark.parametrize("needs_grad", [False, True])
def test_compiled_it_holds_for_every_size(between, num_heads_q, head_dim, needs_grad):
    torch._dynamo.reset()
    count = CompileCounter()
    compiled = torch.compile(flash_attn_qkvpacked_func, backend=count, fullgraph=True, dynamic=True)
    for seqlen in (60, 61, 75):
        qkv = _empty(2, seqlen, *between, head_dim, requires_grad=needs_grad)
        options = {"causal": True, "num_heads_q": num_heads_q, "return_attn_probs": True}
        expected = flash_attn_qkvpacked_func(qkv, **options)
        found = compiled(qkv, **options)
        assert [tensor.stride() for tensor in found] == [tensor.stride() for tensor in expected]
        assert [tensor.shape for tensor in found] == [(2, seqlen, 4, head_dim), (2, 4, seqlen)]
        assert all(tensor.requires_grad == needs_grad for tensor in (found[0], expected[0]))
    assert count.frame_count == 1


def test_without_options_and_gradients_no_view_is_made(monkeypatch):
    monkeypatch.setattr("flash_attn3.attention.unpack", None)
    out, lse = flash_attn_qkvpacked_func(_empty(2, 9, 3, 4, 64), return_attn_probs=True)
    assert (out.shape, lse.shape) == ((2, 9, 4, 64), (2, 4, 9))
    assert flash_attn_qkvpacked_func(_empty(2, 9, 10, 64), num_heads_q=6).shape == (2, 9, 6, 64)
    with pytest.raises(TypeError):
        flash_attn_qkvpacked_func(_empty(2, 9, 3, 4, 64), softcap=3.0)


@pytest.mark.parametrize(
    "options", [{"window_size": (4, 0)}, {"softcap": 3.0}, {"attention_chunk": 4}], ids=str
)
def test_options_reach_the_call_on_its_views(options):
    with Calls() as calls:
        assert flash_attn_qkvpacked_func(_empty(2, 9, 3, 4, 64), **options).shape == (2, 9, 4, 64)
    assert calls.only[0] == "fwd_masked"
