"""``flash_attn_with_kvcache``: a forward call with the lengths of the cache; other features are refused."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch._subclasses.fake_tensor import FakeTensorMode

import flash_attn_interface
from flash_attn_interface import flash_attn_with_kvcache, get_scheduler_metadata
from tests.compat.calls import SHAPE_Q, dense, empty, index
from tests.flash_attn3.operator_calls import Calls

NO_KERNEL = (*("k", "v", "qv", "rotary_cos", "rotary_sin", "cache_batch_idx", "cache_leftpad"),)


def test_lengths_and_options_arrive():
    q, k, v = dense()
    used, sink, out = index(2), empty((4,), torch.float32), torch.empty_like(q)
    with Calls() as calls:
        results = flash_attn_with_kvcache(
            *(q, k, v),
            cache_seqlens=used,
            softmax_scale=0.5,
            causal=True,
            window_size=(9, 2),
            attention_chunk=4,
            softcap=3.0,
            scheduler_metadata=index(0),
            num_splits=16,
            pack_gqa=True,
            sm_margin=2,
            return_softmax_lse=True,
            s_aux=sink,
            out=out,
        )
    name, seen = calls.only
    assert name == "fwd_into"
    assert results[0] is seen["out"] is out
    assert [tuple(t.shape) for t in results] == [SHAPE_Q, (2, 4, 16), (0,), (0,)]
    assert (seen["seqused_k"], seen["sink"]) == (used, sink)
    assert [seen["softmax_scale"], seen["causal"], seen["window_left"], seen["window_right"]] == [
        0.5,
        True,
        9,
        2,
    ]
    assert [seen["attention_chunk"], seen["softcap"], seen["sm_margin"]] == [4, 3.0, 2]


def test_pages_and_packed_queries_arrive():
    q, pages = empty((7, 4, 64)), empty((12, 8, 2, 64))
    table, starts, used = index(3, 4), index(4), index(3)
    with Calls() as calls:
        out = flash_attn_with_kvcache(
            q, pages, pages, cache_seqlens=used, page_table=table, cu_seqlens_q=starts, max_seqlen_q=5
        )
    assert out.shape == q.shape
    _, seen = calls.only
    assert (seen["page_table"], seen["cu_seqlens_q"], seen["seqused_k"]) == (table, starts, used)
    assert seen["cu_seqlens_k"] is None
    assert seen["max_seqlen_q"] == 5


@pytest.mark.parametrize("paged", [False, True])
@pytest.mark.parametrize(("given", "expected"), [(5, 5), (0, 0), (24, 24), (None, 24)])
def test_one_length_for_all_sequences(paged: bool, given: int | None, expected: int):
    q, k, v = (torch.zeros(tensor.shape, dtype=torch.bfloat16) for tensor in dense())
    table = torch.zeros(2, 3, dtype=torch.int32) if paged else None
    cache = {"k_cache": torch.zeros(9, 8, 2, 64) if paged else k, "page_table": table}
    lengths = []

    class Filled(Calls):
        """Keeps the lengths that are made on the CPU, where attention itself raises."""

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if func is torch.ops.aten.full.default:
                lengths.append(result)
            return result

    with Filled(), pytest.raises((ValueError, TypeError)):
        flash_attn_with_kvcache(q, v_cache=v, cache_seqlens=given, **cache)
    if given is None and not paged:
        assert lengths == []  # every row of the cache counts, as in a call without lengths
    else:
        (made,) = lengths
        assert (made.tolist(), made.dtype) == ([expected] * 2, torch.int32)


@pytest.mark.parametrize("length", [-1, 25])
def test_a_length_beyond_the_cache_is_refused(length: int):
    with pytest.raises(ValueError, match=rf"^cache_seqlens must be 0 to 24, .*; it is {length}$"):
        flash_attn_with_kvcache(*dense(), cache_seqlens=length)


@pytest.mark.parametrize("wrong", [1.5, [3, 4], torch.zeros(2, dtype=torch.int64)])
def test_lengths_of_another_type_are_refused(wrong):
    with pytest.raises(TypeError, match=r"^cache_seqlens must be (an int, a tensor or None|torch.int32); it"):
        flash_attn_with_kvcache(*dense(), cache_seqlens=wrong)


def test_packed_queries_need_their_longest_length():
    _, k, v = dense()
    with pytest.raises(ValueError, match=r"^max_seqlen_q must be given with cu_seqlens_q"):
        flash_attn_with_kvcache(empty((7, 4, 64)), k, v, cache_seqlens=index(2), cu_seqlens_q=index(3))


@pytest.mark.parametrize("compiled", [False, True])
def test_the_longest_length_may_be_a_tensor(compiled: bool):
    """It is not read from a device: the rows of all sequences are the bound."""

    def attention(q, cache, starts, used, longest):
        plan = get_scheduler_metadata(3, longest, longest, 4, 2, 64, used, cu_seqlens_q=starts)
        return flash_attn_with_kvcache(
            *(q, cache, cache),
            cache_seqlens=used,
            cu_seqlens_q=starts,
            max_seqlen_q=longest,
            scheduler_metadata=plan,
        )

    torch._dynamo.reset()
    called = torch.compile(attention, backend="aot_eager", fullgraph=True) if compiled else attention
    arguments = empty((7, 4, 64)), empty((3, 9, 2, 64)), index(4), index(3), index()
    assert called(*arguments).shape == (7, 4, 64)
    with Calls() as calls:
        attention(*arguments)
    assert calls.only[1]["max_seqlen_q"] == 7


@pytest.mark.parametrize("name", NO_KERNEL)
def test_what_has_no_kernel_is_refused_by_name(name: str):
    with pytest.raises(NotImplementedError, match=rf"^{name} has no kernel in flash_attn3 yet"):
        flash_attn_with_kvcache(*dense(), **{name: empty((1,))})


@pytest.mark.parametrize("new", ["cu_seqlens_k_new", "rotary_seqlens"])
def test_what_describes_new_keys_has_no_effect_without_them(new: str):
    """SGLang gives cu_seqlens_k_new on every call; with new keys, the keys are refused."""
    q, k, v = dense()
    used, given = index(2), {new: index(3)}
    with Calls() as calls:
        flash_attn_with_kvcache(q, k, v, cache_seqlens=used)
        flash_attn_with_kvcache(q, k, v, cache_seqlens=used, **given)
    assert calls.seen[0] == calls.seen[1]
    with pytest.raises(NotImplementedError, match=r"^k has no kernel in flash_attn3 yet"):
        flash_attn_with_kvcache(q, k, v, k, v, cache_seqlens=used, **given)
    with pytest.raises(NotImplementedError, match=r"^rotary_cos has no kernel in flash_attn3 yet"):
        flash_attn_with_kvcache(q, k, v, rotary_cos=q, cache_seqlens=used, **given)


def test_scales_have_no_effect_on_16_bit_tensors():
    """vLLM gives them on every call, one value for all heads."""
    q, k, v = dense()
    used, scale = index(2), empty((1,), torch.float32).expand(2, 2)
    with Calls() as calls:
        flash_attn_with_kvcache(q, k, v, cache_seqlens=used)
        flash_attn_with_kvcache(
            q, k, v, cache_seqlens=used, q_descale=scale, k_descale=scale, v_descale=scale
        )
    assert calls.seen[0] == calls.seen[1]


def test_an_attribute_of_the_module_compiles():
    def attention(q, k, v):
        return flash_attn_interface.flash_attn_with_kvcache(q, k, v, causal=True)

    torch._dynamo.reset()
    count = CompileCounter()
    compiled = torch.compile(attention, backend=count, fullgraph=True)
    for _ in range(3):
        assert compiled(*dense()).shape == SHAPE_Q
    assert count.frame_count == 1


def test_fp8_caches_are_refused():
    q, k, v = dense()
    with pytest.raises(NotImplementedError, match=r"^k has no FP8 kernel"):
        flash_attn_with_kvcache(q, k.to(torch.float8_e4m3fn), v, k_descale=empty((2, 2), torch.float32))


def test_without_the_lse_it_returns_the_output_alone():
    with FakeTensorMode():
        q, k, v = (torch.empty(t.shape, dtype=t.dtype, device="cuda") for t in dense())
        out = flash_attn_with_kvcache(q, k, v, cache_seqlens=7)
    assert (tuple(out.shape), out.dtype, out.device.type) == (SHAPE_Q, torch.bfloat16, "cuda")
