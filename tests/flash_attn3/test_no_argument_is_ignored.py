"""Every argument of every public function reaches an operator, raises, or is a hint for a stated reason."""

from __future__ import annotations

import pytest
import torch

import flash_attn3
from flash_attn3 import (
    flash_attn_combine,
    flash_attn_func,
    flash_attn_qkvpacked_func,
    flash_attn_varlen_func,
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
    flash_attn_combine: ({"out_partial": PARTIAL, "lse_partial": PARTIAL_LSE}, COMBINE),
}


def test_every_public_function_is_walked():
    public = {getattr(flash_attn3, name) for name in flash_attn3.__all__}
    assert {value for value in public if callable(value)} == set(FUNCTIONS)


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
