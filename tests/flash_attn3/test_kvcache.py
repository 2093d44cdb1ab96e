"""``flash_attn_with_kvcache``: what reaches the operators, and what is refused; tensors without data."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch._subclasses.fake_tensor import FakeTensorMode

import flash_attn3
from flash_attn3 import flash_attn_append_kvcache, flash_attn_with_kvcache, get_scheduler_metadata
from tests.flash_attn3.dataless import SHAPE_Q, dense, empty, index
from tests.flash_attn3.operator_calls import Calls

CACHE, NEW = (2, 24, 2, 64), (2, 3, 2, 64)


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


def test_what_has_no_kernel_is_refused_by_name():
    with pytest.raises(NotImplementedError, match=r"^qv has no kernel yet"):
        flash_attn_with_kvcache(*dense(), qv=empty((1,)))
    with pytest.raises(NotImplementedError, match=r"^cache_batch_idx has no kernel with page_table"):
        flash_attn_with_kvcache(
            *dense(), cache_seqlens=index(2), page_table=index(2, 3), cache_batch_idx=index(2)
        )
    q, k, v = dense()
    apart = empty((2, 48, 2, 64))[:, ::2]
    gaps = empty((2, 30, 2, 64))[:, :24]
    assert flash_attn_with_kvcache(q, apart, v, cache_leftpad=index(2)).shape == q.shape
    with pytest.raises(NotImplementedError, match=r"^cache_leftpad has no kernel for a cache whose"):
        flash_attn_with_kvcache(q, k, gaps, cache_leftpad=index(2))


@pytest.mark.parametrize("new", ["cu_seqlens_k_new", "rotary_seqlens"])
def test_what_describes_new_keys_has_no_effect_without_them(new: str):
    """SGLang gives cu_seqlens_k_new on every call."""
    q, k, v = dense()
    used, given = index(2), {new: index(3)}
    with Calls() as calls:
        flash_attn_with_kvcache(q, k, v, cache_seqlens=used)
        flash_attn_with_kvcache(q, k, v, cache_seqlens=used, **given)
    assert calls.seen[0] == calls.seen[1]


def test_new_rows_are_appended_before_they_are_attended_to():
    q, k_cache, v_cache = dense()
    k, v, used = empty(NEW), empty(NEW), index(2)
    with Calls() as calls:
        out = flash_attn_with_kvcache(q, k_cache, v_cache, k, v, cache_seqlens=used, causal=True)
    (first, appended), (second, attended) = calls.seen
    assert (first, second, out.shape) == ("append", "fwd_general", q.shape)
    for name, tensor in {
        "k_cache": k_cache,
        "v_cache": v_cache,
        "k": k,
        "v": v,
        "cache_seqlens": used,
    }.items():
        assert appended[name] is tensor
    assert attended["seqused_k"] is not used  # the lengths afterwards
    assert attended["seqused_k"].shape == (2,)
    assert (attended["q"], attended["k"], attended["v"]) == (q, k_cache, v_cache)


@pytest.mark.parametrize(
    ("options", "advances"),
    [
        ({}, False),
        ({"causal": True}, True),
        ({"window_size": (5, -1)}, True),
        ({"window_size": (-1, 0)}, True),
        ({"attention_chunk": 4}, True),
        ({"softcap": 3.0}, False),
    ],
)
def test_queries_are_rotated_with_the_new_keys(options: dict[str, object], advances: bool):
    q, k_cache, v_cache = dense()
    tables, positions = (empty((40, 16)), empty((40, 16))), index(2)
    with Calls() as calls:
        flash_attn_with_kvcache(
            *(q, k_cache, v_cache, empty(NEW), empty(NEW), None, *tables),
            cache_seqlens=index(2),
            rotary_seqlens=positions,
            rotary_interleaved=False,
            **options,
        )
    (first, rotated), (_, attended) = calls.seen
    assert first == "append_rotating"
    assert (rotated["rotary_cos"], rotated["rotary_sin"]) == tables
    assert (rotated["rotary_seqlens"], rotated["q"]) == (positions, q)
    assert (rotated["rotary_interleaved"], rotated["q_advances"]) == (False, advances)
    assert attended["q"] is not q
    assert attended["q"].shape == q.shape


def test_rotated_queries_of_an_odd_head_dim_start_at_multiples_of_16_bytes():
    q, cache, new = empty((2, 16, 4, 59)), empty((2, 24, 2, 59)), empty((2, 3, 2, 59))
    tables = empty((40, 8)), empty((40, 8))
    with Calls() as calls:
        flash_attn_with_kvcache(q, cache, cache, new, new, None, *tables, cache_seqlens=index(2))
    assert calls.seen[1][1]["q"].stride() == (16 * 4 * 64, 4 * 64, 64, 1)


def test_appending_alone_returns_the_lengths():
    pages, table, starts, new = empty((12, 8, 2, 64)), index(3, 4), index(4), empty((7, 2, 64))
    with Calls() as calls:
        lengths = flash_attn_append_kvcache(
            pages, pages, new, new, index(3), page_table=table, cu_seqlens_k_new=starts
        )
    name, seen = calls.only
    assert (name, lengths.shape, lengths.dtype) == ("append", (3,), torch.int32)
    assert (seen["page_table"], seen["cu_seqlens_k_new"], seen["rotary_cos"]) == (table, starts, None)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_compiled_call_appends_and_attends(compiled: bool):
    """The caches are declared as written, or the graph could leave the operator out."""

    def attention(q, k_cache, v_cache, k, used, table):  # noqa: PLR0917
        pages = flash_attn_with_kvcache(
            *(q, k_cache, v_cache, k, k, None, table, table),
            cache_seqlens=used,
            cache_leftpad=used,
            causal=True,
        )
        return pages, flash_attn_append_kvcache(k_cache, v_cache, k, k, used)

    torch._dynamo.reset()
    called = torch.compile(attention, backend="aot_eager", fullgraph=True) if compiled else attention
    q, k_cache, v_cache = dense()
    out, lengths = called(q, k_cache, v_cache, empty(NEW), index(2), empty((40, 16)))
    assert (out.shape, lengths.shape) == (q.shape, (2,))


TABLE = empty((40, 16))
REFUSED = [
    ({"v": None}, ValueError, "v must be given with k, v, rotary_cos or rotary_sin; it is None"),
    ({"k": None}, ValueError, "k must be given with k, v, rotary_cos or rotary_sin; it is None"),
    ({"cache_seqlens": None}, ValueError, "cache_seqlens must be given with k, whose rows"),
    (
        {"cache_seqlens": 22},
        ValueError,
        "cache_seqlens must be 0 to 21, which leaves room for the 3 new rows",
    ),
    ({"cache_seqlens": index(3)}, ValueError, "k_cache must have the batch size of cache_seqlens, 3, or"),
    ({"k": empty((2, 3, 4, 64))}, ValueError, "k must have the heads and head_dim of k_cache"),
    ({"v": empty((2, 2, 2, 64))}, ValueError, "v must have the rows of k"),
    ({"k": empty((1, 3, 2, 64))}, ValueError, "k must have the batch size of cache_seqlens, 2"),
    (
        {"k": empty(NEW, torch.float16)},
        TypeError,
        "k must have the dtype of k_cache, torch.bfloat16; it is torch.f",
    ),
    (
        {"k": empty(NEW, torch.float32)},
        TypeError,
        "k must be torch.float16 or torch.bfloat16; it is torch.float32",
    ),
    ({"k": empty(NEW, torch.float8_e4m3fn)}, NotImplementedError, "k has no FP8 kernel yet"),
    ({"k": 3}, TypeError, "k must be a torch.Tensor; its type is int"),
    ({"cu_seqlens_k_new": index(3)}, ValueError, r"k must have 3 dimensions, \(total, heads, head_dim\)"),
    ({"cache_batch_idx": index(3)}, ValueError, r"cache_batch_idx must have shape \(2,\)"),
    ({"cache_leftpad": index(3)}, ValueError, r"cache_leftpad must have shape \(2,\)"),
    (
        {"cache_batch_idx": empty((2,), torch.int64)},
        TypeError,
        "cache_batch_idx must be torch.int32; it is torch.int64",
    ),
    (
        {"k": empty((2, 25, 2, 64)), "v": empty((2, 25, 2, 64))},
        ValueError,
        "k_cache must have room for the new rows, 25 for each sequence; a sequence has 24",
    ),
    (
        {"k_cache": empty((9, 1, 2, 64)), "v_cache": empty((9, 1, 2, 64)), "page_table": index(2, 2)},
        ValueError,
        "page_table must be wide enough for the new rows, 3 for each sequence; its 2 columns hold 2",
    ),
    ({"page_table": index(3, 2)}, ValueError, r"page_table must have shape \(batch, pages\) with batch 2"),
    ({"k_cache": empty((*CACHE, 2))[..., 0]}, ValueError, "k_cache must have 1 as its last stride"),
    ({"rotary_cos": TABLE}, ValueError, "rotary_sin must be given with the other table; it is None"),
    ({"rotary_sin": TABLE}, ValueError, "rotary_cos must be given with the other table; it is None"),
    (
        {"rotary_cos": TABLE, "rotary_sin": empty((40, 8))},
        ValueError,
        r"rotary_sin must have the shape of rotary_cos, \(40, 16\)",
    ),
    (
        {"rotary_cos": empty((40, 33)), "rotary_sin": empty((40, 33))},
        ValueError,
        "rotary_cos must have 1 to 32 columns",
    ),
    (
        {"rotary_cos": TABLE.float(), "rotary_sin": TABLE},
        TypeError,
        "rotary_cos must have the dtype of k_cache, torch.bfloat16; it is torch.float32",
    ),
    (
        {"rotary_cos": empty((2, 16)), "rotary_sin": empty((2, 16))},
        ValueError,
        "rotary_cos must have at least 3 positions, the rows of k",
    ),
    (
        {"rotary_cos": empty((7, 16)), "rotary_sin": empty((7, 16)), "cache_seqlens": 5},
        ValueError,
        "rotary_cos must have at least 8 positions, for 5 rows and 3 new ones",
    ),
    ({"k": empty(NEW).requires_grad_()}, NotImplementedError, "k requires a gradient, and appending"),
    (
        {"q": empty((2, 16, 4, 64)).requires_grad_(), "rotary_cos": TABLE, "rotary_sin": TABLE},
        NotImplementedError,
        "q requires a gradient, and appending",
    ),
]


@pytest.mark.parametrize(("changes", "error", "message"), REFUSED)
def test_what_cannot_be_appended_is_refused_by_name(changes, error: type[Exception], message: str):
    q, k_cache, v_cache = dense()
    arguments = {
        "q": q,
        "k_cache": k_cache,
        "v_cache": v_cache,
        "k": empty(NEW),
        "v": empty(NEW),
        "cache_seqlens": index(2),
        **changes,
    }
    with pytest.raises(error, match=f"^{message}"):
        flash_attn_with_kvcache(**arguments)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"q": None}, TypeError, "q must be a torch.Tensor; its type is NoneType"),
        ({"q": empty(())}, ValueError, r"q must have dimensions; its shape is \(\)"),
        ({"k_cache": 3}, TypeError, "k_cache must be a torch.Tensor; its type is int"),
        (
            {"v_cache": empty((24, 2, 64))},
            ValueError,
            r"v_cache must have 4 dimensions, \(batch, seqlen, heads",
        ),
        ({"page_table": index(4)}, ValueError, r"page_table must have shape \(batch, pages\)"),
        ({"cu_seqlens_q": [0, 4]}, TypeError, "cu_seqlens_q must be a torch.Tensor; its type is list"),
        ({"rotary_cos": empty((40, 16))}, ValueError, "k must be given with k, v, rotary_cos or rotary_sin"),
        ({"rotary_seqlens": 4}, TypeError, "rotary_seqlens must be a torch.Tensor; its type is int"),
    ],
)
def test_what_is_no_call_is_refused_by_name(changes, error: type[Exception], message: str):
    q, k_cache, v_cache = dense()
    with pytest.raises(error, match=f"^{message}"):
        flash_attn_with_kvcache(**{"q": q, "k_cache": k_cache, "v_cache": v_cache, **changes})


def test_a_cache_on_the_cpu_is_refused():
    tensors = [torch.zeros(shape, dtype=torch.bfloat16) for shape in (CACHE, CACHE, NEW, NEW)]
    with pytest.raises(ValueError, match=r"^k_cache must be a CUDA tensor; it is on cpu"):
        flash_attn_append_kvcache(*tensors, torch.zeros(2, dtype=torch.int32))


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
        return flash_attn3.flash_attn_with_kvcache(q, k, v, causal=True)

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
