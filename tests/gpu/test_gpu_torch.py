"""The operator inside torch: compile, export, opcheck, autograd."""

from __future__ import annotations

import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("needs a GPU: torch.cuda.is_available() is False", allow_module_level=True)

from flash_attn3 import flash_attn_func, flash_attn_qkvpacked_func, flash_attn_varlen_func

# torch.compile instantiates every autograd.Function that it traces, which torch itself deprecates.
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
]


def _inputs(device, seqlen_q=200, seqlen_k=300, **options):
    q = torch.randn(2, seqlen_q, 4, 128, device=device, dtype=torch.bfloat16, **options)
    k, v = (
        torch.randn(2, seqlen_k, 2, 128, device=device, dtype=torch.bfloat16, **options) for _ in range(2)
    )
    return q, k, v


def _attention(q, k, v):
    return flash_attn_func(q, k, v, causal=True, return_attn_probs=True)


class _Module(torch.nn.Module):
    def forward(self, q, k, v):
        return _attention(2 * q, k, v)


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


def test_exported_is_eager(device):
    batch, seqlen_q, seqlen_k = (torch.export.Dim(name) for name in ("batch", "seqlen_q", "seqlen_k"))
    shapes = ({0: batch, 1: seqlen_q}, {0: batch, 1: seqlen_k}, {0: batch, 1: seqlen_k})
    module = _Module()
    program = torch.export.export(module, _inputs(device), dynamic_shapes=shapes).module()
    for seqlens in ((200, 300), (33, 65)):
        inputs = _inputs(device, *seqlens)
        for found, expected in zip(program(*inputs), module(*inputs), strict=True):
            assert torch.equal(found, expected)


@pytest.mark.parametrize("seqlens", [(200, 300), (0, 5), (5, 0)])
@pytest.mark.parametrize("strided", [False, True])
def test_opcheck(device, seqlens, strided):
    q, k, v = _inputs(device, *seqlens)
    if strided:
        q = q.transpose(1, 2).contiguous().transpose(1, 2)
    torch.library.opcheck(
        torch.ops.flash_attn3.fwd.default,
        (q, k, v, 0.1, True, 0),
        test_utils=("test_schema", "test_faketensor", "test_aot_dispatch_dynamic"),
    )


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("needing", [0, 1, 2])
def test_the_backward_pass_raises(device, needing, compiled):
    torch._dynamo.reset()
    function = torch.compile(_attention, backend="aot_eager", fullgraph=True) if compiled else _attention
    inputs = _inputs(device)
    expected, _ = _attention(*inputs)
    inputs[needing].requires_grad_()
    out, lse = function(*inputs)
    assert torch.equal(out, expected)
    for result in (out, lse):
        with pytest.raises(NotImplementedError, match="no backward kernel yet"):
            result.sum().backward(retain_graph=True)


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
        return (
            q,
            k,
            v,
            starts,
            starts,
            None,
            None,
            None,
            sink,
            longest,
            longest,
            0.1,
            True,
            30,
            -1,
            0,
            0.0,
            0,
        )
    q, k, v = (tensor[..., :head_dim] for tensor in _inputs(device))
    if form == "dense":
        return (q, k, v, *(None,) * 6, 0, 0, 0.1, False, -1, -1, 64, 15.0, 0)
    pages = torch.randn(20, 16, 2, head_dim, device=device, dtype=torch.bfloat16)
    table = torch.randperm(20, device=device).int()[:16].view(2, 8)
    used = torch.tensor([100, 128], dtype=torch.int32, device=device)
    return (q, pages, pages, None, None, None, used, table, None, 0, 0, 0.1, True, -1, -1, 0, 0.0, 0)


@pytest.mark.parametrize("head_dim", [128, 40, 59])
@pytest.mark.parametrize("form", ["dense", "packed", "paged"])
def test_opcheck_of_the_general_operators(device, form, head_dim):
    arguments = _general_arguments(form, device, head_dim)
    utils = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    torch.library.opcheck(torch.ops.flash_attn3.fwd_general.default, arguments, test_utils=utils)
    q = arguments[0]
    out = q.new_zeros((*q.shape[:-1], 64 if head_dim < 64 else 128))[..., :head_dim]
    torch.library.opcheck(torch.ops.flash_attn3.fwd_into.default, (*arguments, out), test_utils=utils)
    expected, expected_lse = torch.ops.flash_attn3.fwd_general(*arguments)
    lse = torch.ops.flash_attn3.fwd_into(*arguments, out)
    assert torch.equal(out, expected)
    assert torch.equal(lse, expected_lse)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("needing", ["q", "sink"])
def test_the_backward_pass_of_varlen_raises(device, needing, compiled):
    torch._dynamo.reset()
    function = torch.compile(_varlen, backend="aot_eager", fullgraph=True) if compiled else _varlen
    inputs, sink = _packed(device), torch.randn(4, device=device)
    expected, _ = _varlen(*inputs, sink)
    (inputs[0] if needing == "q" else sink).requires_grad_()
    out, lse = function(*inputs, sink)
    assert torch.equal(out, expected)
    for result in (out, lse):
        with pytest.raises(NotImplementedError, match="no backward kernel yet"):
            result.sum().backward(retain_graph=True)


def test_packed_tensors_are_read_where_they_lie(device):
    q, k, v = _inputs(device, 200, 200)
    expected = flash_attn_func(q, k, v, causal=True)
    both = torch.cat((q, k, v), dim=2)
    assert torch.equal(flash_attn_qkvpacked_func(both, causal=True, num_heads_q=4), expected)
    stacked = torch.stack((q, q + 1, q - 1), dim=2)
    expected = flash_attn_func(q, q + 1, q - 1, softcap=5.0)
    assert torch.equal(flash_attn_qkvpacked_func(stacked, softcap=5.0), expected)


def test_windows_that_are_masks(device):
    q, k, v = _inputs(device)
    causal = flash_attn_func(q, k, v, causal=True)
    assert torch.equal(flash_attn_func(q, k, v, window_size=(-1, 0)), causal)
    assert torch.equal(flash_attn_func(q, k, v, window_size=(torch.tensor(-1), torch.tensor(0))), causal)
    assert torch.equal(flash_attn_func(q, k, v, window_size=(299, 199)), flash_attn_func(q, k, v))
    assert torch.equal(flash_attn_func(q, k, v, window_size=(300, 5), causal=True), causal)
    assert not torch.equal(flash_attn_func(q, k, v, window_size=(20, 0)), causal)


def test_results_belong_to_the_stream_of_the_call(device):
    q, k, v = _inputs(device)
    expected = flash_attn_func(q, k, v)
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        results = [flash_attn_func(q, k, v) for _ in range(50)]
    stream.synchronize()
    assert all(torch.equal(result, expected) for result in results)
