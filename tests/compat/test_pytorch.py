"""PyTorch's activation of "FA3" finds what it needs, and its calls reach our operators."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  PyTorch's own name for it
from torch.nn.attention import (
    _fa3,
    activate_flash_attention_impl,
    current_flash_attention_impl,
    restore_flash_attention_impl,
)

from tests.flash_attn3.dataless import SHAPE_Q, dense, empty, index
from tests.flash_attn3.operator_calls import Calls

if TYPE_CHECKING:
    from collections.abc import Iterator

OVERRIDDEN = ("_flash_attention_forward", "_scaled_dot_product_flash_attention", "_flash_attention_backward")


@pytest.fixture
def activated() -> Iterator[None]:
    activate_flash_attention_impl("FA3")
    yield
    restore_flash_attention_impl()


@pytest.mark.usefixtures("activated")
def test_it_activates():
    assert current_flash_attention_impl() == "FA3"
    for name in OVERRIDDEN:
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"aten::{name}", "CUDA")


def test_it_can_be_restored():
    activate_flash_attention_impl("FA3")
    restore_flash_attention_impl()
    assert current_flash_attention_impl() is None


@pytest.mark.usefixtures("activated")
def test_attention_on_a_cpu_is_left_alone():
    q, k, v = torch.randn(3, 2, 4, 8, 16).unbind(0)
    expected = (q @ k.transpose(-1, -2) / 4).softmax(-1) @ v
    torch.testing.assert_close(F.scaled_dot_product_attention(q, k, v), expected)


@pytest.mark.usefixtures("activated")
def test_its_forward_call_goes_through():
    """The call that scaled_dot_product_attention makes on a GPU."""
    q, k, v = dense()
    out = torch.empty_like(q.transpose(1, 2)).transpose(1, 2)
    with Calls() as calls:
        written, lse = _fa3._fa3_run_forward(
            *(q, k, v, None, None, 16, 24, None, True),
            window_size_left=None,
            window_size_right=None,
            seqused_k=None,
            out=out,
        )
    assert written is out
    assert (tuple(lse.shape), lse.dtype) == ((2, 4, 16), torch.float32)
    name, seen = calls.only
    assert (name, seen["causal"], seen["softmax_scale"], seen["sm_margin"]) == ("fwd_into", True, None, 0)


@pytest.mark.usefixtures("activated")
def test_its_call_on_packed_sequences_in_pages_goes_through():
    q, pages = empty((32, 4, 64)), empty((9, 16, 2, 64))
    with Calls() as calls:
        out, lse = _fa3._fa3_run_forward(
            *(q, pages, pages, index(3), None, 16, 24, 0.5, False),
            window_size_left=8,
            window_size_right=0,
            seqused_k=index(2),
            block_table=index(2, 2),
            num_splits=4,
        )
    assert (tuple(out.shape), tuple(lse.shape)) == ((32, 4, 64), (4, 32))
    _, seen = calls.only
    assert (seen["max_seqlen_q"], seen["softmax_scale"]) == (16, 0.5)
    assert (seen["window_left"], seen["window_right"]) == (8, 0)
    assert seen["page_table"] is not None


@pytest.mark.usefixtures("activated")
def test_its_backward_call_goes_through():
    """The call that the gradient of scaled_dot_product_attention makes on a GPU."""
    q, k, v = dense()
    lse = empty((2, 4, 16), torch.float32)
    with Calls() as calls:
        gradients = _fa3._fa3_run_backward(
            *(q, q, k, v, q, lse, None, None, 16, 24, None, True),
            window_size_left=-1,
            window_size_right=-1,
            deterministic=True,
        )
    name, seen = calls.only
    assert (name, seen["causal"], seen["deterministic"]) == ("bwd_into", True, True)
    assert all(seen[key] is gradient for key, gradient in zip(("dq", "dk", "dv"), gradients, strict=True))
    assert [tensor.shape for tensor in gradients] == [tensor.shape for tensor in (q, k, v)]


@pytest.mark.usefixtures("activated")
def test_its_backward_call_on_packed_sequences_goes_through():
    q, k = empty((32, 4, 64)), empty((48, 2, 64))
    with Calls() as calls:
        _fa3._fa3_run_backward(
            *(q, q, k, k, q, empty((4, 32), torch.float32), index(3), index(3), 16, 24, 0.5, False),
            window_size_left=8,
            window_size_right=0,
        )
    _, seen = calls.only
    assert (seen["max_seqlen_q"], seen["max_seqlen_k"], seen["softmax_scale"]) == (16, 24, 0.5)
    assert (seen["window_left"], seen["window_right"], seen["deterministic"]) == (8, 0, False)


@pytest.mark.usefixtures("activated")
def test_below_autograd_a_tensor_that_requires_a_gradient_is_computed():
    """There PyTorch records the gradient itself, and may pass ``out`` with a gradient."""
    q, k, v = dense()
    q.requires_grad_()
    out = torch.empty(SHAPE_Q, dtype=q.dtype, device="meta")
    with torch._C._AutoDispatchBelowAutograd():
        written, _, *_ = torch.ops.flash_attn_3.fwd(q, k, v, None, None, None, out)
    assert not written.requires_grad
