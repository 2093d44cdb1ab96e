"""Gradients inside torch: compile, checkpointing, CUDA graphs, streams, repeats, and what goes wrong."""

from __future__ import annotations

import pytest
import torch
from torch.utils.checkpoint import checkpoint

if not torch.cuda.is_available():
    pytest.skip("needs a GPU: torch.cuda.is_available() is False", allow_module_level=True)

from flash_attn3 import flash_attn_func, flash_attn_qkvpacked_func, flash_attn_varlen_func

# torch warns of its own parts while it compiles, of others in every version.
pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]
BFLOAT16 = torch.bfloat16


def _leaves(device, seqlen_q=200, seqlen_k=300, heads=4, head_dim=128):
    sizes = ((seqlen_q, heads), (seqlen_k, heads // 2), (seqlen_k, heads // 2))
    return [
        torch.randn(2, *size, head_dim, device=device, dtype=BFLOAT16, requires_grad=True) for size in sizes
    ]


def _dense(q, k, v, deterministic=True):
    return flash_attn_func(q, k, v, causal=True, deterministic=deterministic, return_attn_probs=True)


def _options(q, k, v, sink):
    return flash_attn_func(
        *(q, k, v),
        window_size=(60, 0),
        softcap=20.0,
        learnable_sink=sink,
        deterministic=True,
        return_attn_probs=True,
    )


def _varlen(q, k, v, starts, sink):
    return flash_attn_varlen_func(
        *(q, k, v, starts, starts, 128, 128),
        causal=True,
        learnable_sink=sink,
        deterministic=True,
        return_attn_probs=True,
    )


def _packed(qkv):
    return flash_attn_qkvpacked_func(qkv, causal=True, deterministic=True, return_attn_probs=True)


def _call(form, device, size=0):
    """Return a function, its arguments, and those of them that have gradients."""
    sink = torch.randn(4, device=device, requires_grad=True)
    if form == "dense":
        leaves = _leaves(device, 200 + size, 300 - size)
        return _dense, leaves, leaves
    if form == "options":
        leaves = [*_leaves(device, 200 + size, 300 - size), sink]
        return _options, leaves, leaves
    if form == "qkvpacked":
        shape = (2, 150 + size, 3, 4, 128)
        qkv = torch.randn(shape, device=device, dtype=BFLOAT16, requires_grad=True)
        return _packed, [qkv], [qkv]
    leaves = [tensor.detach()[0].requires_grad_() for tensor in _leaves(device, 165 + size, 165 + size)]
    starts = torch.tensor([0, 100, 100, 128, 165 + size], device=device, dtype=torch.int32)
    return _varlen, [*leaves, starts, sink], [*leaves, sink]


FORMS = ("dense", "options", "varlen", "qkvpacked")


def _gradients(function, arguments, leaves, through_lse=True):
    out, lse = function(*arguments)
    generator = torch.Generator(device=out.device).manual_seed(out.shape[-3])
    results = [out, lse] if through_lse else [out]
    gradients = [
        torch.randn(result.shape, device=out.device, generator=generator).to(result.dtype)
        for result in results
    ]
    return torch.autograd.grad(results, leaves, gradients)


def _assert_equal(found, expected):
    assert len(found) == len(expected)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


# ---- right, through more than one call


def _plain(q, k, v, *, window=None, softcap=0.0):
    """Attention from its definition, in the dtype of q."""
    group = q.shape[2] // k.shape[2]
    k, v = (tensor.repeat_interleave(group, 2).transpose(1, 2) for tensor in (k, v))
    scores = q.transpose(1, 2) @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    seen = torch.ones(scores.shape[-2:], device=q.device, dtype=torch.bool).tril()
    if window is not None:
        seen = seen.triu(-window)
    return (scores.masked_fill(~seen, -torch.inf).softmax(-1) @ v).transpose(1, 2)


def _ours(q, k, v, *, window=None, softcap=0.0):
    window_size = (-1 if window is None else window, 0)
    return flash_attn_func(q, k, v, causal=True, window_size=window_size, softcap=softcap)


def _chain(x, weights, attention):
    """Two attentions with a linear layer before, between and behind them."""
    first, between, last = weights
    heads = (x @ first).unflatten(-1, (8, 64))
    x = attention(heads[:, :, :4], heads[:, :, 4:6], heads[:, :, 6:])
    heads = (x.flatten(2) @ between).unflatten(-1, (8, 64))
    x = attention(heads[:, :, :4], heads[:, :, 4:6], heads[:, :, 6:], window=50, softcap=10.0)
    return x.flatten(2) @ last


def test_a_chain_of_two_attentions_and_linear_layers(device):
    """At most twice as far from float64 as plain PyTorch in the same dtype."""
    generator = torch.Generator(device=device).manual_seed(5)
    shapes = ((2, 300, 256), (256, 512), (256, 512), (256, 256))
    leaves = [
        torch.randn(shape, device=device, generator=generator) / (1 if len(shape) == 3 else 16)
        for shape in shapes
    ]
    dout = torch.randn(2, 300, 256, device=device, generator=generator)

    def gradients(attention, dtype):
        x, *weights = (leaf.to(BFLOAT16).to(dtype).requires_grad_() for leaf in leaves)
        out = _chain(x, weights, attention)
        found = torch.autograd.grad(out, (x, *weights), dout.to(BFLOAT16).to(dtype))
        return [out, *found]

    exact, plain = gradients(_plain, torch.float64), gradients(_plain, BFLOAT16)
    for found, theirs, right in zip(gradients(_ours, BFLOAT16), plain, exact, strict=True):
        error, allowed = (found - right).norm(), 2 * (theirs - right).norm() + 1e-3 * right.norm()
        assert error <= allowed


# ---- the same bits


@pytest.mark.parametrize("head_dim", [64, 96, 128, 192, 256])
def test_deterministic_gradients_repeat_bit_by_bit(device, head_dim):
    leaves = _leaves(device, 1000, 1000, heads=8, head_dim=head_dim)
    expected = _gradients(_dense, leaves, leaves)
    busy = torch.randn(2048, 2048, device=device)
    for turn in range(50):
        if turn % 2:
            with torch.cuda.stream(torch.cuda.Stream(device)):
                busy @ busy
        _assert_equal(_gradients(_dense, leaves, leaves), expected)


@pytest.mark.parametrize("form", FORMS)
def test_deterministic_gradients_of_every_form_repeat(device, form):
    function, arguments, leaves = _call(form, device)
    expected = _gradients(function, arguments, leaves)
    for _ in range(20):
        _assert_equal(_gradients(function, arguments, leaves), expected)


def test_torchs_own_switch_makes_gradients_deterministic(device):
    leaves = _leaves(device)
    expected = _gradients(_dense, leaves, leaves)
    torch.use_deterministic_algorithms(mode=True, warn_only=True)
    try:
        found = _gradients(lambda *tensors: _dense(*tensors, deterministic=False), leaves, leaves)
    finally:
        torch.use_deterministic_algorithms(mode=False)
    _assert_equal(found, expected)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_compiled_gradients_are_eager_ones(device, form, dynamic):
    torch._dynamo.reset()
    compiled = torch.compile(_call(form, device)[0], backend="aot_eager", fullgraph=True, dynamic=dynamic)
    for size in (0, 7):
        function, arguments, leaves = _call(form, device, size)
        expected = _gradients(function, arguments, leaves)
        _assert_equal(_gradients(compiled, arguments, leaves), expected)


def test_inductors_gradients_are_eager_ones(device):
    torch._dynamo.reset()
    function, arguments, leaves = _call("dense", device)
    compiled = torch.compile(function, fullgraph=True)
    _assert_equal(
        _gradients(compiled, arguments, leaves, through_lse=False),
        _gradients(function, arguments, leaves, through_lse=False),
    )


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointed_gradients_are_the_same(device, use_reentrant):
    function, _, leaves = _call("dense", device)

    def again(*tensors):
        return checkpoint(function, *tensors, use_reentrant=use_reentrant)

    dout = torch.randn_like(leaves[0])
    found, expected = (_left_in_leaves(call, leaves, dout) for call in (again, function))
    _assert_equal(found, expected)


def _left_in_leaves(call, leaves, dout):
    """Return the gradients that ``backward`` leaves in the leaves; some checkpoints serve no other way."""
    for leaf in leaves:
        leaf.grad = None
    call(*leaves)[0].backward(dout)
    return [leaf.grad for leaf in leaves]


def test_torch_func_grad_is_autograds(device):
    q, k, v = _leaves(device)
    weight = torch.randn(2, 200, 4, 128, device=device, dtype=BFLOAT16)
    found = torch.func.grad(lambda *tensors: (_dense(*tensors)[0] * weight).sum(), argnums=(0, 1, 2))(q, k, v)
    _assert_equal(found, torch.autograd.grad((_dense(q, k, v)[0] * weight).sum(), (q, k, v)))


def test_gradients_are_captured_in_a_graph(device):
    leaves = _leaves(device)
    dout = torch.randn_like(leaves[0])

    def gradients():
        return torch.autograd.grad(_dense(*leaves)[0], leaves, dout)

    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        gradients()
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = gradients()
    with torch.no_grad():
        for leaf in leaves:
            leaf.copy_(torch.randn_like(leaf))
    for _ in range(2):
        graph.replay()
        torch.cuda.synchronize(device)
        _assert_equal(captured, gradients())


def test_a_backward_pass_on_another_stream(device):
    leaves = _leaves(device, 2000, 2000, heads=16)
    dout = torch.randn_like(leaves[0])
    out, lse = _dense(*leaves)
    expected = torch.autograd.grad(out, leaves, dout)
    other = torch.cuda.Stream(device)
    for _ in range(20):
        out, lse = _dense(*leaves)
        with torch.cuda.stream(other):
            found = torch.autograd.grad(out, leaves, dout, retain_graph=True)
        torch.cuda.current_stream(device).wait_stream(other)
        _assert_equal(found, expected)
        other.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(other):
            q, k, v, written, row_sums = (tensor.detach() for tensor in (*leaves, out, lse))
            found = torch.ops.flash_attn3.bwd(
                *(dout, q, k, v, written, row_sums, None, None, True), deterministic=True
            )
        torch.cuda.current_stream(device).wait_stream(other)
        _assert_equal(found[:3], expected)


# ---- operators


@pytest.mark.parametrize("into", [False, True])
@pytest.mark.parametrize("form", ["dense", "varlen"])
def test_opcheck(device, form, into):
    function, arguments, _ = _call(form, device)
    out, lse = function(*arguments)
    q, k, v, out, lse = (tensor.detach() for tensor in (*arguments[:3], out, lse))
    dout, dlse = torch.randn_like(out), torch.randn_like(lse)
    lengths = (None, None, 0, 0) if form == "dense" else (arguments[3], arguments[3], 128, 128)
    sink = None if form == "dense" else arguments[4].detach()
    given = (dout, q, k, v, out, lse, dlse, None, True, *lengths, None, None, -1, -1, sink, 0.0, 0, True)
    if into:
        buffers = tuple(torch.empty_like(tensor) for tensor in (q, k, v))
        torch.library.opcheck(torch.ops.flash_attn3.bwd_into.default, (*buffers, *given))
    else:
        torch.library.opcheck(torch.ops.flash_attn3.bwd.default, given)


# ---- what goes wrong


def test_too_little_memory_for_the_workspace_is_named_and_the_next_call_works(device):
    shape = (1, 16384, 16, 128)
    leaves = [torch.randn(shape, device=device, dtype=BFLOAT16, requires_grad=True) for _ in range(3)]
    size = leaves[0].nbytes  # the workspace is twice as large
    out, dout = flash_attn_func(*leaves, deterministic=True), torch.randn_like(leaves[0])
    expected = torch.autograd.grad(out, leaves, dout, retain_graph=True)
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    allowed = torch.cuda.memory_reserved(device) + 4 * size
    before = torch.cuda.memory_allocated(device)
    torch.cuda.set_per_process_memory_fraction(
        allowed / torch.cuda.get_device_properties(device).total_memory, device
    )
    try:
        with pytest.raises(torch.OutOfMemoryError, match="workspace could not be allocated"):
            torch.autograd.grad(out, leaves, dout, retain_graph=True)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
    assert torch.cuda.memory_allocated(device) == before
    _assert_equal(torch.autograd.grad(out, leaves, dout), expected)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_tensor_that_changed_since_the_forward_call_is_refused(device, place):
    leaves = _leaves(device)
    out = flash_attn_func(*leaves)
    with torch.no_grad():
        leaves[place].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


def test_an_output_that_changed_is_refused(device):
    out = flash_attn_func(*_leaves(device))
    with torch.no_grad():
        out.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


def test_second_derivatives_are_refused(device):
    leaves = _leaves(device)
    (dq,) = torch.autograd.grad(flash_attn_func(*leaves).sum(), leaves[:1], create_graph=True)
    with pytest.raises(NotImplementedError, match="no kernel for this backward pass"):
        dq.sum().backward()


def test_a_gradient_through_pages_is_refused_by_name(device):
    q = torch.randn(2, 10, 4, 128, device=device, dtype=BFLOAT16, requires_grad=True)
    pages = torch.randn(20, 16, 2, 128, device=device, dtype=BFLOAT16)
    table = torch.randperm(20, device=device).int()[:16].view(2, 8)
    used = torch.tensor([100, 128], dtype=torch.int32, device=device)
    out = flash_attn_varlen_func(q, pages, pages, None, None, 0, 0, seqused_k=used, page_table=table)
    with pytest.raises(NotImplementedError, match="page_table has no backward kernel"):
        out.sum().backward()


def test_memory_of_a_backward_pass_is_its_workspace_and_its_gradients(device):
    """dq in float32 and two floats a row: nothing of the square of the length, and none kept."""
    q, k, v = (
        torch.randn(1, 4096, heads, 128, device=device, dtype=BFLOAT16, requires_grad=True)
        for heads in (32, 4, 4)
    )
    out = flash_attn_func(q, k, v, causal=True)
    dout = torch.randn_like(out)
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    gradients = torch.autograd.grad(out, (q, k, v), dout)
    returned = sum(tensor.nbytes for tensor in gradients)
    rows = q.shape[1] * q.shape[2]
    workspace = 4 * rows * (128 + 2)
    peak = torch.cuda.max_memory_allocated(device) - before
    assert peak <= returned + 1.05 * workspace
    del out
    assert torch.cuda.memory_allocated(device) <= before + returned
