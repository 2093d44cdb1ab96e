"""Every argument of the functions that only this module has reaches an operator, raises, or is a hint."""

from __future__ import annotations

import pytest
import torch

import flash_attn3
import flash_attn_interface
from flash_attn_interface import (
    _flash_attn_backward,
    _flash_attn_forward,
)
from tests.flash_attn3.argument_walk import (
    Hint,
    Raises,
    Reaches,
    ignored,
    missing_entries,
    ways,
)
from tests.flash_attn3.dataless import dense, empty, index

Q, K, V = dense()
OTHER_Q, OTHER_K, OTHER_V = dense()
OUT, SINK, DESCALE = torch.empty_like(Q), empty((4,), torch.float32), empty((2, 2), torch.float32)
PACKED, STARTS, USED = empty((32, 4, 64)), index(3), index(2)
PACKED_K = empty((48, 2, 64))
PAGES, TABLE = empty((6, 8, 2, 64)), index(2, 3)

NEVER_SPLIT = "the kernels never cut the keys, which any bound allows"
SAME_RESULT = "the layout of grouped heads in a kernel does not change the result"
NO_PLAN = "the kernels schedule themselves, so that a plan is empty"
ONLY_WITH_ROTARY = "without rotary_cos, which is refused, it has no meaning"
ONLY_WITH_NEW_KEYS = "without new keys, which are refused, it has no meaning"
FOR_FP8 = "16-bit tensors have no scale, and tensors of FP8 are refused"
OPTIONS = {
    "softmax_scale": Reaches(0.3, {"softmax_scale": 0.3}),
    "causal": Reaches(True, {"causal": True}),
    "attention_chunk": Reaches(8, {"attention_chunk": 8}),
    "softcap": Reaches(15.0, {"softcap": 15.0}),
    "rotary_interleaved": Hint(value=False, reason=ONLY_WITH_ROTARY),
    "scheduler_metadata": Hint(index(0), NO_PLAN),
    "num_splits": Hint(3, NEVER_SPLIT, wrong=-1),
    "pack_gqa": Hint(value=True, reason=SAME_RESULT, wrong=1),
    "sm_margin": Reaches(3, {"sm_margin": 3}),
    "q_descale": Hint(DESCALE, FOR_FP8, wrong=2.0),
    "k_descale": Hint(DESCALE, FOR_FP8, wrong=2.0),
    "v_descale": Hint(DESCALE, FOR_FP8, wrong=2.0),
    "qv": Raises(OTHER_Q, NotImplementedError),
    "rotary_cos": Raises(DESCALE, NotImplementedError),
    "rotary_sin": Raises(DESCALE, NotImplementedError),
    "cu_seqlens_k_new": Hint(STARTS, ONLY_WITH_NEW_KEYS, wrong=[0, 1]),
}
PACKED_Q = {"q": PACKED, "cu_seqlens_q": STARTS, "max_seqlen_q": 16}
PACKED_KV = {"k": PACKED_K, "v": PACKED_K, "cu_seqlens_k": STARTS, "max_seqlen_k": 24}
FORWARD = {
    **OPTIONS,
    "q": Reaches(OTHER_Q, {"q": OTHER_Q}),
    "k": Reaches(OTHER_K, {"k": OTHER_K}),
    "v": Reaches(OTHER_V, {"v": OTHER_V}),
    "k_new": Raises(OTHER_K, NotImplementedError),
    "v_new": Raises(OTHER_V, NotImplementedError),
    "out_": Reaches(OUT, {"out": OUT}),
    "cu_seqlens_q": Reaches(STARTS, {"cu_seqlens_q": STARTS}, given={**PACKED_Q, "out_": None}),
    "cu_seqlens_k": Reaches(STARTS, {"cu_seqlens_k": STARTS}, given=PACKED_KV),
    "seqused_q": Reaches(USED, {"seqused_q": USED}),
    "seqused_k": Reaches(USED, {"seqused_k": USED}),
    "max_seqlen_q": Reaches(11, {"max_seqlen_q": 11}, given={**PACKED_Q, "out_": None}),
    "max_seqlen_k": Reaches(13, {"max_seqlen_k": 13}, given=PACKED_KV),
    "page_table": Reaches(
        TABLE, {"page_table": TABLE, "k": PAGES}, given={"k": PAGES, "v": PAGES, "seqused_k": USED}
    ),
    "kv_batch_idx": Raises(USED, NotImplementedError),
    "leftpad_k": Raises(USED, NotImplementedError),
    "seqlens_rotary": Hint(USED, ONLY_WITH_ROTARY, wrong=[0, 1]),
    "window_size_left": Reaches(5, {"window_left": 5}),
    "window_size_right": Reaches(2, {"window_right": 2}),
}
LSE, OTHER_LSE = empty((2, 4, 16), torch.float32), empty((2, 4, 16), torch.float32)
PACKED_Q_GRADIENT = {
    **dict.fromkeys(("q", "out", "dout"), PACKED),
    "softmax_lse": empty((4, 32), torch.float32),
    "cu_seqlens_q": STARTS,
    "max_seqlen_q": 16,
}
BACKWARD = {
    "dout": Reaches(OTHER_Q, {"dout": OTHER_Q}),
    "q": Reaches(OTHER_Q, {"q": OTHER_Q}),
    "k": Reaches(OTHER_K, {"k": OTHER_K}),
    "v": Reaches(OTHER_V, {"v": OTHER_V}),
    "out": Reaches(OUT, {"out": OUT}),
    "softmax_lse": Reaches(OTHER_LSE, {"lse": OTHER_LSE}),
    "cu_seqlens_q": Reaches(STARTS, {"cu_seqlens_q": STARTS}, given=PACKED_Q_GRADIENT),
    "cu_seqlens_k": Reaches(STARTS, {"cu_seqlens_k": STARTS}, given=PACKED_KV),
    "sequed_q": Reaches(USED, {"seqused_q": USED}),
    "sequed_k": Reaches(USED, {"seqused_k": USED}),
    "max_seqlen_q": Reaches(11, {"max_seqlen_q": 11}, given=PACKED_Q_GRADIENT),
    "max_seqlen_k": Reaches(13, {"max_seqlen_k": 13}, given=PACKED_KV),
    "dq": Reaches(OTHER_Q, {"dq": OTHER_Q}),
    "dk": Reaches(OTHER_K, {"dk": OTHER_K}),
    "dv": Reaches(OTHER_V, {"dv": OTHER_V}),
    "softmax_scale": Reaches(0.3, {"softmax_scale": 0.3}),
    "is_causal": Reaches(True, {"causal": True}),
    "window_size_left": Reaches(5, {"window_left": 5}),
    "window_size_right": Reaches(2, {"window_right": 2}),
    "softcap": Reaches(15.0, {"softcap": 15.0}),
    "deterministic": Reaches(True, {"deterministic": True}),
    "sm_margin": Reaches(3, {"sm_margin": 3}),
}
FUNCTIONS = {
    _flash_attn_backward: (
        {"dout": Q, "q": Q, "k": K, "v": V, "out": Q, "softmax_lse": LSE},
        BACKWARD,
    ),
    _flash_attn_forward: ({"q": Q, "k": K, "v": V}, FORWARD),
}


def test_every_function_is_walked_or_needs_no_walk():
    walked = {function.__name__.removeprefix("_") for function in FUNCTIONS}
    own = {
        name.removeprefix("_")
        for name in flash_attn_interface.__all__
        if getattr(flash_attn3, name, None) is not getattr(flash_attn_interface, name)
    }
    assert own == walked


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_every_parameter_has_an_entry(function):
    _, entries = FUNCTIONS[function]
    assert missing_entries(function, entries) == set()


@pytest.mark.parametrize(("function", "name", "beside"), [*ways(FUNCTIONS)])
def test_no_argument_is_ignored(function, name, beside):
    required, entries = FUNCTIONS[function]
    assert ignored(function, required, name, entries[name], beside) == ""
