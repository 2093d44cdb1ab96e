"""Appending to a cache on a GPU, as torch sees it: schemas, compiled calls, the steps of a decoder."""

from __future__ import annotations

import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("needs a GPU: torch.cuda.is_available() is False", allow_module_level=True)

from flash_attn3 import flash_attn_append_kvcache, flash_attn_func, flash_attn_with_kvcache
from flash_attn3.checks.cases.append import AppendCase
from flash_attn3.checks.data.append import make_inputs

# torch warns of its own parts while it compiles, of others in every version.
pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]

CASES = {
    "dense": AppendCase("bf16", 3, 5, 90, 4, 2, 128),
    "pages": AppendCase("fp16", 3, 5, 90, 4, 2, 64, page_size=16, packed=True),
    "rotary": AppendCase("bf16", 3, 5, 90, 4, 2, 96, rotary_dim=32, seqlen_q=5, causal=True),
    "odd": AppendCase("bf16", 3, 5, 90, 4, 2, 59, rotary_dim=8, seqlen_q=5, page_size=3),
}
ORDER = ("cache_seqlens", "cache_batch_idx", "page_table", "cu_seqlens_k_new")
ROTARY = ("rotary_cos", "rotary_sin", "rotary_seqlens")


@pytest.mark.parametrize("name", CASES)
def test_opcheck(device, name):
    inputs = make_inputs(CASES[name], device)
    caches = [cache.view(cache.buffer) for cache in (inputs.k_cache, inputs.v_cache)]
    arrays = [inputs.options.get(key) for key in (*ORDER, *ROTARY)]
    arguments = (*caches, inputs.k, inputs.v, *arrays, inputs.options.get("rotary_interleaved", True))
    for cache in caches:
        cache.nan_to_num_(0)  # opcheck compares with equality
    # Tests of autograd do not apply: there is no backward pass.
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    torch.library.opcheck(torch.ops.flash_attn3.append.default, arguments, test_utils=tests)
    if inputs.tables:
        rotating = (*arguments, inputs.q, None, True)
        torch.library.opcheck(torch.ops.flash_attn3.append_rotating.default, rotating, test_utils=tests)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_a_compiled_call_is_eager(device, backend, dynamic):
    def step(q, k_cache, v_cache, k, v, lengths, cosines, sines):  # noqa: PLR0917
        out, lse, *_ = flash_attn_with_kvcache(
            *(q, k_cache, v_cache, k, v, None, cosines, sines),
            cache_seqlens=lengths,
            causal=True,
            return_softmax_lse=True,
        )
        return out * 2, lse, k_cache.sum()  # the sum sees what was appended

    torch._dynamo.reset()
    inputs = make_inputs(CASES["rotary"], device)
    results = []
    for function in (step, torch.compile(step, backend=backend, fullgraph=True, dynamic=dynamic)):
        caches = [
            cache.view(cache.buffer.clone()).nan_to_num_(0) for cache in (inputs.k_cache, inputs.v_cache)
        ]
        lengths = inputs.options["cache_seqlens"]
        results.append((*function(inputs.q, *caches, inputs.k, inputs.v, lengths, *inputs.tables), *caches))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("page_size", [0, 1, 16])
def test_a_decoder_that_appends_says_what_one_call_says(device, page_size):
    """A prompt of 40 tokens, then 9 steps of one token, replayed from one captured graph."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 49, h, 64, device=device, dtype=torch.bfloat16) for h in (4, 2, 2))
    whole = flash_attn_func(q, k, v, causal=True)
    slots, rows = (2 * (64 // page_size), page_size) if page_size else (2, 64)
    caches = [torch.full((slots, rows, 2, 64), torch.nan, device=device, dtype=q.dtype) for _ in range(2)]
    table = torch.randperm(slots, device=device, dtype=torch.int32).view(2, -1) if page_size else None
    lengths = torch.zeros(2, dtype=torch.int32, device=device)
    prompt = flash_attn_with_kvcache(
        q[:, :40], *caches, k[:, :40], v[:, :40], cache_seqlens=lengths, page_table=table, causal=True
    )
    assert (prompt.float() - whole[:, :40].float()).abs().max() < 0.02
    token = [tensor[:, :1].clone() for tensor in (q, k, v)]
    lengths.fill_(40)

    def step():
        out = flash_attn_with_kvcache(
            token[0], *caches, *token[1:], cache_seqlens=lengths, page_table=table, causal=True
        )
        lengths.add_(1)
        return out

    kept = [cache.clone() for cache in caches]
    step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = step()
    lengths.fill_(40)
    for cache, before in zip(caches, kept, strict=True):
        cache.copy_(before)
    for position in range(40, 49):
        for tensor, source in zip(token, (q, k, v), strict=True):
            tensor.copy_(source[:, position : position + 1])
        graph.replay()
        assert (out.float() - whole[:, position : position + 1].float()).abs().max() < 0.02
    assert lengths.tolist() == [49, 49]


def test_a_cache_without_room_keeps_its_bits(device):
    cache = torch.randn(2, 8, 2, 64, device=device, dtype=torch.float16)
    before, new = cache.clone(), torch.randn(2, 3, 2, 64, device=device, dtype=torch.float16)
    lengths = torch.tensor([8, -9], dtype=torch.int32, device=device)
    assert flash_attn_append_kvcache(cache, cache.clone(), new, new, lengths).tolist() == [8, 0]
    assert torch.equal(cache, before)
