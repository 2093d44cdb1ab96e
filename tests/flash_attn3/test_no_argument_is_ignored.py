"""Every argument of every public function reaches an operator, raises, or is a hint for a stated reason."""

from __future__ import annotations

import inspect

import pytest
import torch

import flash_attn3
from flash_attn3 import (
    flash_attn_append_kvcache,
    flash_attn_combine,
    flash_attn_func,
    flash_attn_qkvpacked_func,
    flash_attn_varlen_func,
    flash_attn_with_kvcache,
    get_scheduler_metadata,
)
from tests.flash_attn3.argument_walk import Hint, Raises, Reaches, Returns, ignored, missing_entries, ways


def _tensor(*shape, dtype=torch.bfloat16):
    return torch.empty(shape, dtype=dtype, device="meta")


def _index(*shape):
    return _tensor(*shape, dtype=torch.int32)


Q, K, V = _tensor(2, 16, 4, 64), _tensor(2, 16, 4, 64), _tensor(2, 16, 4, 64)
OTHER = _tensor(2, 16, 4, 64)
SINK, OUT, DESCALE = (
    _tensor(4, dtype=torch.float32),
    _tensor(2, 16, 4, 64),
    _tensor(2, 4, dtype=torch.float32),
)
PACKED_Q, PACKED_K, PACKED_OUT = (_tensor(32, 4, 64) for _ in range(3))
STARTS_Q, STARTS_K = _index(3), _index(3)
QKV = _tensor(2, 16, 3, 4, 64)
PARTIAL, PARTIAL_LSE = (
    _tensor(3, 2, 16, 4, 64, dtype=torch.float32),
    _tensor(3, 2, 16, 4, dtype=torch.float32),
)

NEVER_SPLIT = "the kernels never cut the keys, which any bound allows"
SAME_RESULT = "the layout of grouped heads in a kernel does not change the result"
ALWAYS = "forward is always deterministic"
FOR_FP8 = "16-bit tensors have no scale, and tensors of FP8 are refused"
OPTIONS = {
    "softmax_scale": Reaches(0.3, {"softmax_scale": 0.3}),
    "causal": Reaches(True, {"causal": True}),
    "q_descale": Hint(DESCALE, FOR_FP8, wrong=2.0),
    "k_descale": Hint(DESCALE, FOR_FP8, wrong=2.0),
    "v_descale": Hint(DESCALE, FOR_FP8, wrong=2.0),
    "window_size": Reaches((5, 2), {"window_left": 5, "window_right": 2}),
    "attention_chunk": Reaches(8, {"attention_chunk": 8}),
    "softcap": Reaches(15.0, {"softcap": 15.0}),
    "deterministic": Hint(value=True, reason=ALWAYS, wrong=1),
    "sm_margin": Reaches(3, {"sm_margin": 3}),
    "return_attn_probs": Returns(value=True, length=2),
    "learnable_sink": Reaches(SINK, {"sink": SINK}),
    "s_aux": Reaches(SINK, {"sink": SINK}),
    "out": Reaches(OUT, {"out": OUT}),
}
UNPACKED = {
    **OPTIONS,
    "qv": Raises(OTHER, NotImplementedError),
    "num_splits": Hint(3, NEVER_SPLIT, wrong=-1),
    "pack_gqa": Hint(value=True, reason=SAME_RESULT, wrong=1),
}
DENSE = {
    **UNPACKED,
    "q": Reaches(OTHER, {"q": OTHER}),
    "k": Reaches(OTHER, {"k": OTHER}),
    "v": Reaches(OTHER, {"v": OTHER}),
}
OTHER_PACKED, OTHER_STARTS, USED = _tensor(32, 4, 64), _index(3), _index(2)
PAGES, TABLE = _tensor(6, 8, 4, 64), _index(2, 3)
PAGED = {"cu_seqlens_k": None, "k": PAGES, "v": PAGES, "seqused_k": USED}
VARLEN = {
    **UNPACKED,
    "q": Reaches(OTHER_PACKED, {"q": OTHER_PACKED}),
    "k": Reaches(OTHER_PACKED, {"k": OTHER_PACKED}),
    "v": Reaches(OTHER_PACKED, {"v": OTHER_PACKED}),
    "cu_seqlens_q": Reaches(OTHER_STARTS, {"cu_seqlens_q": OTHER_STARTS}),
    "cu_seqlens_k": Reaches(OTHER_STARTS, {"cu_seqlens_k": OTHER_STARTS}),
    "max_seqlen_q": Reaches(11, {"max_seqlen_q": 11}),
    "max_seqlen_k": Reaches(13, {"max_seqlen_k": 13}),
    "seqused_q": Reaches(USED, {"seqused_q": USED}),
    "seqused_k": Reaches(USED, {"seqused_k": USED}),
    "page_table": Reaches(TABLE, {"page_table": TABLE, "seqused_k": USED, "k": PAGES}, given=PAGED),
    "out": Reaches(PACKED_OUT, {"out": PACKED_OUT}),
}
OTHER_QKV = _tensor(2, 16, 3, 4, 64)
GROUPED = _tensor(2, 16, 8, 64)  # 4 heads of q, 2 of k, 2 of v


def _has_qkv(seen):
    return (seen["qkv"] if "qkv" in seen else seen["q"]._base) is OTHER_QKV


def _has_heads(seen):
    return seen["heads_q"] == 4 if "heads_q" in seen else seen["k"].shape[2] == 2


QKVPACKED = {
    **OPTIONS,
    "qkv": Reaches(OTHER_QKV, _has_qkv),
    "num_heads_q": Reaches(4, _has_heads, given={"qkv": GROUPED}),
}
OTHER_PARTIAL, OTHER_LSE = torch.empty_like(PARTIAL), torch.empty_like(PARTIAL_LSE)
COMBINED = _tensor(2, 16, 4, 64, dtype=torch.float16)


def _has_half(seen):
    return seen["out_dtype"] == 0 if "out_dtype" in seen else seen["out"].dtype is torch.float16


COMBINE = {
    "out_partial": Reaches(OTHER_PARTIAL, {"out_partial": OTHER_PARTIAL}),
    "lse_partial": Reaches(OTHER_LSE, {"lse_partial": OTHER_LSE}),
    "out": Reaches(COMBINED, {"out": COMBINED}),
    "out_dtype": Reaches(torch.float16, _has_half),
}
NO_PLAN = "the kernels schedule themselves, so that a plan is empty"
NO_NEW_KEYS = "it describes new keys, and there are none without k"
CACHE, CACHE_V = _tensor(2, 24, 4, 64), _tensor(2, 24, 4, 64)
NEW, NEW_V, COSINES, SINES = _tensor(2, 5, 4, 64), _tensor(2, 5, 4, 64), _tensor(40, 16), _tensor(40, 16)
PACKED_NEW = _tensor(9, 4, 64)
APPENDS = {"k": NEW, "v": NEW_V, "cache_seqlens": USED}
ROTATES = {**APPENDS, "rotary_cos": COSINES, "rotary_sin": SINES}
PAGED_CACHE = {"k_cache": PAGES, "v_cache": PAGES}


def _of_append(name, value, beside=APPENDS, operator="append", seen=None):
    return Reaches(value, {seen or name: value}, given={**beside, name: value}, operator=operator)


def _of_rotation(name, value, seen=None):
    return _of_append(name, value, ROTATES, "append_rotating", seen)


def _is_padded(seen):
    return seen["cu_seqlens_k"] is not None and seen["k"].shape == (48, 4, 64)


def _is_indexed(seen):
    return seen["page_table"]._base is OTHER_USED


OTHER_USED = _index(2)
KVCACHE = {
    **{name: entry for name, entry in UNPACKED.items() if name not in ("deterministic", "return_attn_probs")},
    "q": Reaches(OTHER, {"q": OTHER}),
    "k_cache": Reaches(CACHE, {"k": CACHE}),
    "v_cache": Reaches(CACHE, {"v": CACHE}),
    "k": _of_append("k", NEW),
    "v": _of_append("v", NEW),
    "rotary_cos": _of_rotation("rotary_cos", COSINES),
    "rotary_sin": _of_rotation("rotary_sin", SINES),
    "rotary_seqlens": _of_rotation("rotary_seqlens", OTHER_USED),
    "rotary_interleaved": _of_rotation("rotary_interleaved", value=False),
    "cache_seqlens": Reaches(USED, {"seqused_k": USED}),
    "cache_batch_idx": Reaches(OTHER_USED, _is_indexed),
    "cache_leftpad": Reaches(OTHER_USED, _is_padded),
    "page_table": Reaches(
        TABLE, {"page_table": TABLE, "k": PAGES}, given={**PAGED_CACHE, "cache_seqlens": USED}
    ),
    "cu_seqlens_q": Reaches(
        OTHER_STARTS, {"cu_seqlens_q": OTHER_STARTS}, given={"q": PACKED_Q, "max_seqlen_q": 16, "out": None}
    ),
    "cu_seqlens_k_new": _of_append(
        "cu_seqlens_k_new", OTHER_STARTS, {**APPENDS, "k": PACKED_NEW, "v": PACKED_NEW}
    ),
    "max_seqlen_q": Reaches(
        11, {"max_seqlen_q": 11}, given={"q": PACKED_Q, "cu_seqlens_q": STARTS_Q, "out": None}
    ),
    "scheduler_metadata": Hint(_index(0), NO_PLAN),
    "return_softmax_lse": Returns(value=True, length=4),
}
APPEND = {
    "k_cache": Reaches(CACHE, {"k_cache": CACHE}),
    "v_cache": Reaches(CACHE, {"v_cache": CACHE}),
    "k": Reaches(NEW_V, {"k": NEW_V}),
    "v": Reaches(NEW, {"v": NEW}),
    "cache_seqlens": Reaches(OTHER_USED, {"cache_seqlens": OTHER_USED}),
    "cache_batch_idx": Reaches(USED, {"cache_batch_idx": USED}),
    "page_table": Reaches(TABLE, {"page_table": TABLE}, given=PAGED_CACHE),
    "cu_seqlens_k_new": Reaches(
        OTHER_STARTS, {"cu_seqlens_k_new": OTHER_STARTS}, given={"k": PACKED_NEW, "v": PACKED_NEW}
    ),
    "rotary_cos": Reaches(COSINES, {"rotary_cos": COSINES}, given={"rotary_sin": SINES}),
    "rotary_sin": Reaches(SINES, {"rotary_sin": SINES}, given={"rotary_cos": COSINES}),
    "rotary_seqlens": Reaches(OTHER_USED, {"rotary_seqlens": OTHER_USED}),
    "rotary_interleaved": Reaches(False, {"rotary_interleaved": False}),
}
FUNCTIONS = {
    flash_attn_func: ({"q": Q, "k": K, "v": V}, DENSE),
    flash_attn_varlen_func: (
        {
            "q": PACKED_Q,
            "k": PACKED_K,
            "v": PACKED_K,
            "cu_seqlens_q": STARTS_Q,
            "cu_seqlens_k": STARTS_K,
            "max_seqlen_q": 9,
            "max_seqlen_k": 9,
        },
        VARLEN,
    ),
    flash_attn_qkvpacked_func: ({"qkv": QKV}, QKVPACKED),
    flash_attn_with_kvcache: ({"q": Q, "k_cache": CACHE_V, "v_cache": CACHE_V}, KVCACHE),
    flash_attn_append_kvcache: (
        {"k_cache": CACHE_V, "v_cache": CACHE_V, "k": NEW, "v": NEW_V, "cache_seqlens": USED},
        APPEND,
    ),
    flash_attn_combine: ({"out_partial": PARTIAL, "lse_partial": PARTIAL_LSE}, COMBINE),
}

LENGTHS = torch.ones(2, dtype=torch.int32)
PLANNED = {
    "batch_size": 2,
    "max_seqlen_q": 1,
    "max_seqlen_k": 100,
    "num_heads_q": 8,
    "num_heads_kv": 2,
    "headdim": 128,
    "cache_seqlens": LENGTHS,
}
# A plan is empty whatever it is for: the kernels schedule themselves.
PLAN_HINTS = {
    **PLANNED,
    "qkv_dtype": torch.float16,
    "headdim_v": 64,
    "cu_seqlens_q": LENGTHS,
    "cu_seqlens_k_new": LENGTHS,
    "max_seqlen_k_new": 4,
    "page_size": 16,
    "cache_leftpad": LENGTHS,
    "causal": True,
    "window_size": (5, 2),
    "attention_chunk": 8,
    "has_softcap": True,
    "num_splits": 3,
    "pack_gqa": True,
    "sm_margin": 4,
}


def test_every_public_function_is_walked():
    public = {getattr(flash_attn3, name) for name in flash_attn3.__all__}
    walked = {*FUNCTIONS, get_scheduler_metadata}  # whose arguments are hints
    assert {value for value in public if callable(value)} == walked


def test_every_parameter_of_a_plan_has_an_entry():
    assert set(inspect.signature(get_scheduler_metadata).parameters) == {*PLAN_HINTS}


@pytest.mark.parametrize(("name", "value"), PLAN_HINTS.items())
def test_a_plan_is_empty(name, value):
    assert get_scheduler_metadata(**{**PLANNED, name: value}).shape == (0,)


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_every_parameter_has_an_entry(function):
    _, entries = FUNCTIONS[function]
    assert missing_entries(function, entries) == set()


@pytest.mark.parametrize(("function", "name", "beside"), [*ways(FUNCTIONS)])
def test_no_argument_is_ignored(function, name, beside):
    required, entries = FUNCTIONS[function]
    assert ignored(function, required, name, entries[name], beside) == ""


class TestTheWalk:
    """A function that forgets an argument, or accepts what it should not, is noticed."""

    @staticmethod
    def forgetful(q, k, v, *, softcap=0.0, qv=None, num_splits=1, return_attn_probs=False):  # noqa: ARG004
        return flash_attn_func(q, k, v)

    @pytest.mark.parametrize("name", ["softcap", "qv", "num_splits", "return_attn_probs"])
    def test_what_is_ignored_is_named(self, name):
        assert name in ignored(self.forgetful, {"q": Q, "k": K, "v": V}, name, DENSE[name], {})

    def test_a_hint_needs_a_reason(self):
        required = {"q": Q, "k": K, "v": V}
        assert "no reason" in ignored(self.forgetful, required, "softcap", Hint(3.0, ""), {})

    def test_a_parameter_without_an_entry_is_named(self):
        entries = {name: DENSE[name] for name in ("q", "k", "v", "softcap", "qv", "num_splits")}
        assert missing_entries(self.forgetful, entries) == {"return_attn_probs"}
