"""The operators inside torch: compile, opcheck, vmap, CUDA graphs. See also test_gpu_gradients.py."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from torch._dynamo.testing import CompileCounter

if not torch.cuda.is_available():
    pytest.skip("needs a GPU: torch.cuda.is_available() is False", allow_module_level=True)

from flash_attn3 import (
    flash_attn_combine,
    flash_attn_func,
    flash_attn_qkvpacked_func,
    flash_attn_varlen_func,
)
from flash_attn3._check.partials import OUT_DTYPES

# torch warns of its own parts while it compiles, of others in every version.
pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]


def _inputs(device, seqlen_q=200, seqlen_k=300, **options):
    q = torch.randn(2, seqlen_q, 4, 128, device=device, dtype=torch.bfloat16, **options)
    k, v = (
        torch.randn(2, seqlen_k, 2, 128, device=device, dtype=torch.bfloat16, **options) for _ in range(2)
    )
    return q, k, v


def _attention(q, k, v):
    return flash_attn_func(q, k, v, causal=True, return_attn_probs=True)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_is_eager(device, backend, dynamic):
    torch._dynamo.reset()
    compiled = torch.compile(_attention, backend=backend, fullgraph=True, dynamic=dynamic)
    for seqlens in ((200, 300), (77, 128), (1, 5)):
        inputs = _inputs(device, *seqlens)
        for found, expected in zip(compiled(*inputs), _attention(*inputs), strict=True):
            assert torch.equal(found, expected)


def test_compiled_with_cuda_graphs(device):
    torch._dynamo.reset()
    compiled = torch.compile(_attention, mode="reduce-overhead", fullgraph=True)
    inputs = _inputs(device)
    for _ in range(5):
        found = tuple(tensor.clone() for tensor in compiled(*inputs))
        assert all(torch.equal(a, b) for a, b in zip(found, _attention(*inputs), strict=True))


@pytest.mark.parametrize("seqlens", [(200, 300), (0, 5), (5, 0)])
@pytest.mark.parametrize("strided", [False, True])
def test_opcheck(device, seqlens, strided):
    q, k, v = _inputs(device, *seqlens)
    if strided:
        q = q.transpose(1, 2).contiguous().transpose(1, 2)
    torch.library.opcheck(torch.ops.flash_attn3.fwd.default, (q, k, v, 0.1, True))


def test_in_inference_mode_and_under_autocast(device):
    inputs = _inputs(device)
    expected, _ = _attention(*inputs)
    with torch.inference_mode(), torch.autocast("cuda", dtype=torch.bfloat16):
        out, _ = _attention(*inputs)
    assert torch.equal(out, expected)


def _packed(device, lengths=(100, 0, 37), head_dim=128, **options):
    total = sum(lengths)
    q = torch.randn(total, 4, head_dim, device=device, dtype=torch.bfloat16, **options)
    k, v = (torch.randn(total, 2, head_dim, device=device, dtype=torch.bfloat16) for _ in range(2))
    starts = torch.tensor([0, *lengths], device=device).cumsum(0).int()
    return q, k, v, starts, starts, 100, 100


def _varlen(q, k, v, starts_q, starts_k, longest_q, longest_k, sink=None):  # noqa: PLR0917  as in the function
    return flash_attn_varlen_func(
        *(q, k, v, starts_q, starts_k, longest_q, longest_k),
        causal=True,
        window_size=(50, 0),
        softcap=20.0,
        learnable_sink=sink,
        return_attn_probs=True,
    )


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_varlen_is_eager(device, backend, dynamic):
    torch._dynamo.reset()
    compiled = torch.compile(_varlen, backend=backend, fullgraph=True, dynamic=dynamic)
    sink = torch.randn(4, device=device)
    for lengths in ((100, 0, 37), (5,), (64, 100, 1, 2)):
        inputs = _packed(device, lengths)
        for found, expected in zip(compiled(*inputs, sink), _varlen(*inputs, sink), strict=True):
            assert torch.equal(found, expected)


@pytest.fixture
def without_waiting():
    """Within it a call that waits for the device raises an error."""

    @contextmanager
    def guard():
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")

    return guard


@pytest.mark.parametrize("lengths", [(100, 0, 37), (1, 1, 2, 1), (300, 5, 100)])
@pytest.mark.parametrize("backend", [None, "aot_eager", "inductor"])
def test_the_longest_length_in_a_tensor_is_not_read(device, without_waiting, backend, lengths):
    """As vision models pass it. The bits are those of a call with the number."""
    torch._dynamo.reset()
    q, k, v, starts, *_ = _packed(device, lengths)
    expected = _varlen(q, k, v, starts, starts, max(lengths), max(lengths))
    longest = starts.diff().max()
    called = torch.compile(_varlen, backend=backend, fullgraph=True) if backend else _varlen
    arguments = (q, k, v, starts, starts, longest, longest)
    called(*arguments)  # what a first call sets up may wait
    with without_waiting():
        found = called(*arguments)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_the_longest_length_in_a_tensor_is_captured(device):
    q, k, v, starts, *_ = _packed(device)
    expected = _varlen(q, k, v, starts, starts, 100, 100)
    longest = starts.diff().max()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = _varlen(q, k, v, starts, starts, longest, longest)
    graph.replay()
    assert all(torch.equal(a, b) for a, b in zip(captured, expected, strict=True))


def test_scales_have_no_effect_on_16_bit_tensors(device):
    q, k, v = _inputs(device)
    scale = torch.full((1,), 3.0, device=device).expand(2, 2)
    scales = {"q_descale": scale, "k_descale": scale, "v_descale": scale}
    for options in ({}, {"softcap": 20.0}):
        assert torch.equal(flash_attn_func(q, k, v, **options, **scales), flash_attn_func(q, k, v, **options))


def test_varlen_in_a_graph_reads_lengths_on_replay(device):
    inputs = _packed(device, (100, 37))
    starts = inputs[3]
    _varlen(*inputs)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = _varlen(*inputs)
    for middle in (100, 60, 37, 99):
        starts[1] = middle
        graph.replay()
        torch.cuda.synchronize()
        assert all(torch.equal(a, b) for a, b in zip(captured, _varlen(*inputs), strict=True))


def _general_arguments(form, device, head_dim):
    if form == "packed":
        q, k, v, starts, _, longest, _ = _packed(device, head_dim=head_dim)
        sink = torch.randn(4, device=device)
        lengths = (starts, starts, longest, longest, None, None, None)
        return (q, k, v, 0.1, True, *lengths, 30, -1, sink)
    q, k, v = (tensor[..., :head_dim] for tensor in _inputs(device))
    if form == "dense":
        return (q, k, v, 0.1, False, None, None, 0, 0, None, None, None, -1, -1, None, 15.0, 64)
    pages = torch.randn(20, 16, 2, head_dim, device=device, dtype=torch.bfloat16)
    table = torch.randperm(20, device=device).int()[:16].view(2, 8)
    used = torch.tensor([100, 128], dtype=torch.int32, device=device)
    return (q, pages, pages, 0.1, True, None, None, 0, 0, None, used, table)


@pytest.mark.parametrize("head_dim", [128, 40, 59])
@pytest.mark.parametrize("form", ["dense", "packed", "paged"])
def test_opcheck_of_the_general_operators(device, form, head_dim):
    arguments = _general_arguments(form, device, head_dim)
    torch.library.opcheck(torch.ops.flash_attn3.fwd_general.default, arguments)
    q = arguments[0]
    out = q.new_zeros((*q.shape[:-1], 64 if head_dim < 64 else 128))[..., :head_dim]
    torch.library.opcheck(torch.ops.flash_attn3.fwd_into.default, (out, *arguments))
    expected, expected_lse = torch.ops.flash_attn3.fwd_general(*arguments)
    lse = torch.ops.flash_attn3.fwd_into(out, *arguments)
    assert torch.equal(out, expected)
    assert torch.equal(lse, expected_lse)


_PARTS = (slice(5), slice(5, 12), slice(12, None))  # of the general operator's arguments


@pytest.mark.parametrize("form", ["dense", "packed"])
def test_opcheck_of_the_shorter_operators(device, form):
    """They do what the general one does with the arguments that they have."""
    arguments = _general_arguments(form, device, 128)
    operands, lengths, options = (arguments[part] for part in _PARTS)
    name, given = ("fwd_varlen", lengths[:4]) if form == "packed" else ("fwd_masked", ())
    operator, shorter = getattr(torch.ops.flash_attn3, name).default, (*operands, *given, *options)
    torch.library.opcheck(operator, shorter)
    expected = torch.ops.flash_attn3.fwd_general(*arguments)
    assert all(torch.equal(a, b) for a, b in zip(operator(*shorter), expected, strict=True))


def test_packed_tensors_are_read_where_they_lie(device):
    q, k, v = _inputs(device, 200, 200)
    expected = flash_attn_func(q, k, v, causal=True)
    both = torch.cat((q, k, v), dim=2)
    assert torch.equal(flash_attn_qkvpacked_func(both, causal=True, num_heads_q=4), expected)
    stacked = torch.stack((q, q + 1, q - 1), dim=2)
    expected = flash_attn_func(q, q + 1, q - 1, softcap=5.0)
    assert torch.equal(flash_attn_qkvpacked_func(stacked, softcap=5.0), expected)
    plain, plain_lse = flash_attn_func(q, q + 1, q - 1, causal=True, return_attn_probs=True)
    out, lse = flash_attn_qkvpacked_func(stacked, causal=True, return_attn_probs=True)
    assert torch.equal(out, plain)
    assert torch.equal(lse, plain_lse)


@pytest.mark.parametrize("head_dim", [128, 59])
def test_views_of_packed_tensors_are_attended(device, head_dim):
    """Of tensors that begin inside others, whose rows have gaps; odd ones are copied."""
    whole = torch.randn(3, 100, 3, 5, head_dim + 8, device=device, dtype=torch.bfloat16)
    stacked = whole[1:, 7:, :, 1:, 8:]
    expected = flash_attn_func(*stacked.unbind(2))
    assert torch.equal(flash_attn_qkvpacked_func(stacked), expected)
    joined = whole[1:, 7:, 1, 1:, 8:]
    expected = flash_attn_func(joined[:, :, :2], joined[:, :, 2:3], joined[:, :, 3:])
    assert torch.equal(flash_attn_qkvpacked_func(joined, num_heads_q=2), expected)


@pytest.mark.parametrize("stacked", [False, True])
def test_opcheck_of_the_operator_on_packed_tensors(device, stacked):
    shape = (2, 60, 3, 4, 128) if stacked else (2, 60, 8, 128)
    qkv = torch.randn(shape, device=device, dtype=torch.bfloat16)
    arguments = (qkv, 0.1, True, 0 if stacked else 4)
    torch.library.opcheck(torch.ops.flash_attn3.fwd_qkvpacked.default, arguments)


@pytest.mark.parametrize("needs_grad", [False, True])
def test_compiled_on_packed_tensors_is_eager(device, needs_grad):
    torch._dynamo.reset()
    compiled = torch.compile(flash_attn_qkvpacked_func, backend="aot_eager", fullgraph=True, dynamic=True)
    for seqlen in (60, 61):
        qkv = torch.randn(2, seqlen, 3, 4, 128, device=device, dtype=torch.bfloat16)
        expected = flash_attn_qkvpacked_func(qkv, causal=True)
        out = compiled(qkv.requires_grad_(needs_grad), causal=True)
        assert torch.equal(out, expected)
        assert out.requires_grad == needs_grad


def test_windows_that_are_masks(device):
    q, k, v = _inputs(device)
    causal = flash_attn_func(q, k, v, causal=True)
    assert torch.equal(flash_attn_func(q, k, v, window_size=(-1, 0)), causal)
    assert torch.equal(flash_attn_func(q, k, v, window_size=(torch.tensor(-1), torch.tensor(0))), causal)
    assert torch.equal(flash_attn_func(q, k, v, window_size=(299, 199)), flash_attn_func(q, k, v))
    assert torch.equal(flash_attn_func(q, k, v, window_size=(300, 5), causal=True), causal)
    assert not torch.equal(flash_attn_func(q, k, v, window_size=(20, 0)), causal)


@pytest.mark.parametrize("num_splits", [0, 2, 128])
def test_a_bound_on_splits_does_not_change_the_result(device, num_splits):
    q, k, v = _inputs(device)
    assert torch.equal(flash_attn_func(q, k, v, num_splits=num_splits), flash_attn_func(q, k, v))
    packed = _packed(device)
    expected = flash_attn_varlen_func(*packed, causal=True)
    assert torch.equal(flash_attn_varlen_func(*packed, causal=True, num_splits=num_splits), expected)


def test_results_belong_to_the_stream_of_the_call(device):
    q, k, v = _inputs(device)
    expected = flash_attn_func(q, k, v)
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        results = [flash_attn_func(q, k, v) for _ in range(50)]
    stream.synchronize()
    assert all(torch.equal(result, expected) for result in results)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_writes_to_out(device, backend, dynamic):
    torch._dynamo.reset()

    def into(q, k, v, out):
        return flash_attn_func(q, k, v, softcap=20.0, out=out)

    compiled = torch.compile(into, backend=backend, fullgraph=True, dynamic=dynamic)
    for seqlens in ((200, 300), (77, 128)):
        q, k, v = _inputs(device, *seqlens)
        out = torch.full_like(q, torch.nan)
        written = compiled(q, k, v, out)
        expected = flash_attn_func(q, k, v, softcap=20.0)
        assert torch.equal(out, expected)
        assert torch.equal(written, expected)


def test_the_longest_length_makes_no_new_graph(device):
    torch._dynamo.reset()
    count = CompileCounter()
    compiled = torch.compile(_varlen, backend=count, fullgraph=True, dynamic=True)
    q, k, v, starts, _, _, _ = _packed(device, (64, 100, 2))
    for longest in (100, 128, 151, 166):
        arguments = (q, k, v, starts, starts, longest, longest)
        assert all(torch.equal(a, b) for a, b in zip(compiled(*arguments), _varlen(*arguments), strict=True))
    assert count.frame_count == 1


@pytest.mark.parametrize("head_dim", [59, 64])
@pytest.mark.parametrize("form", ["dense", "packed", "paged"])
def test_what_lies_behind_the_rows_of_out_is_left_alone(device, form, head_dim):
    arguments = _general_arguments(form, device, head_dim)
    expected, _ = torch.ops.flash_attn3.fwd_general(*arguments)
    *leading, seqlen, heads, _ = expected.shape
    memory = torch.full((*leading, seqlen + 3, heads + 1, 80), 7.0, device=device, dtype=expected.dtype)
    out = memory[..., :seqlen, :heads, 8 : 8 + head_dim]
    torch.ops.flash_attn3.fwd_into(out, *arguments)
    assert torch.equal(out, expected)
    out.fill_(7)
    assert bool((memory == 7).all())


def _partials(device, seqlen=40, head_dim_v=96, **options):
    out_partial = torch.randn(5, 2, seqlen, 3, head_dim_v, device=device, **options)
    return out_partial, torch.randn(5, 2, 3, seqlen, device=device).transpose(2, 3)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("out_dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("head_dim_v", [96, 59])
def test_opcheck_of_combine(device, head_dim_v, out_dtype, packed):
    out_partial, lse_partial = _partials(device, head_dim_v=head_dim_v)
    if packed:
        out_partial, lse_partial = out_partial[:, 0], lse_partial[:, 0]
    arguments = (out_partial, lse_partial, OUT_DTYPES[out_dtype])
    torch.library.opcheck(torch.ops.flash_attn3.combine.default, arguments)
    out = out_partial.new_zeros((*out_partial.shape[1:-1], 128), dtype=out_dtype)[..., :head_dim_v]
    torch.library.opcheck(torch.ops.flash_attn3.combine_into.default, (out_partial, lse_partial, out))


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_combine_is_eager(device, backend, dynamic):
    torch._dynamo.reset()
    compiled = torch.compile(flash_attn_combine, backend=backend, fullgraph=True, dynamic=dynamic)
    for seqlen in (40, 41):
        inputs = _partials(device, seqlen)
        options = {"out_dtype": torch.bfloat16}
        for found, expected in zip(
            compiled(*inputs, **options), flash_attn_combine(*inputs, **options), strict=True
        ):
            assert torch.equal(found, expected)
            assert found.stride() == expected.stride()


def test_combine_refuses_the_backward_pass(device):
    out_partial, lse_partial = _partials(device, requires_grad=True)
    out, lse = flash_attn_combine(out_partial, lse_partial)
    assert torch.equal(out, flash_attn_combine(out_partial.detach(), lse_partial)[0])
    for result in (out, lse):
        with pytest.raises(NotImplementedError, match="no kernel for this backward pass"):
            result.sum().backward(retain_graph=True)


def test_parts_of_the_keys_combine_to_attention(device):
    q, k, v = _inputs(device, 200, 300)
    expected, expected_lse = flash_attn_func(q, k, v, return_attn_probs=True)
    parts = [
        flash_attn_func(q, k[:, keys], v[:, keys], return_attn_probs=True)
        for keys in (slice(0, 64), slice(64, 64), slice(64, 300))
    ]
    out_partial = torch.stack([out.float() for out, _ in parts])
    lse_partial = torch.stack([lse for _, lse in parts]).transpose(2, 3)
    out, lse = flash_attn_combine(out_partial, lse_partial)
    torch.testing.assert_close(out, expected.float(), rtol=2e-2, atol=2e-3)
    torch.testing.assert_close(lse.transpose(1, 2), expected_lse, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("needs_grad", [False, True])
def test_vmap_is_refused(device, needs_grad):
    inputs = [tensor[None].requires_grad_(needs_grad) for tensor in _inputs(device)]
    with pytest.raises(NotImplementedError, match=r"does not support torch\.vmap"):
        torch.vmap(flash_attn_func)(*inputs)
    with pytest.raises(NotImplementedError, match=r"does not support torch\.vmap"):
        torch.vmap(lambda q, k, v: flash_attn_func(q, k, v, softcap=3.0))(*inputs)
    partials = [tensor[None].requires_grad_(needs_grad) for tensor in _partials(device)]
    with pytest.raises(NotImplementedError, match=r"does not support torch\.vmap"):
        torch.vmap(flash_attn_combine)(*partials)
