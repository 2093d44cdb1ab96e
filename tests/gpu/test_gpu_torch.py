"""The operator inside torch: compile, export, opcheck, autograd."""

from __future__ import annotations

import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("needs a GPU: torch.cuda.is_available() is False", allow_module_level=True)

from flash_attn3 import flash_attn_func

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


def test_windows_that_are_masks(device):
    q, k, v = _inputs(device)
    causal = flash_attn_func(q, k, v, causal=True)
    assert torch.equal(flash_attn_func(q, k, v, window_size=(-1, 0)), causal)
    assert torch.equal(flash_attn_func(q, k, v, window_size=(torch.tensor(-1), torch.tensor(0))), causal)
    assert torch.equal(flash_attn_func(q, k, v, window_size=(299, 199)), flash_attn_func(q, k, v))


def test_results_belong_to_the_stream_of_the_call(device):
    q, k, v = _inputs(device)
    expected = flash_attn_func(q, k, v)
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        results = [flash_attn_func(q, k, v) for _ in range(50)]
    stream.synchronize()
    assert all(torch.equal(result, expected) for result in results)
