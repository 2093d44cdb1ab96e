from __future__ import annotations

import inspect
import math

import pytest
import torch

import flash_attn3
from flash_attn3 import (
    _native,
    flash_attn_append_kvcache,
    flash_attn_combine,
    flash_attn_func,
    flash_attn_qkvpacked_func,
    flash_attn_varlen_func,
    flash_attn_with_kvcache,
    get_scheduler_metadata,
)

# The signature that callers of FlashAttention-3 rely on, position by position.
SIGNATURE = (
    "(q, k, v, softmax_scale=None, causal=False, qv=None, q_descale=None, k_descale=None, v_descale=None, "
    "window_size=(-1, -1), attention_chunk=0, softcap=0.0, num_splits=1, pack_gqa=None, deterministic=False, "
    "sm_margin=0, return_attn_probs=False, learnable_sink=None, s_aux=None, out=None)"
)
SIGNATURE_VARLEN = (
    "(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, seqused_q=None, seqused_k=None, "
    "softmax_scale=None, causal=False, qv=None, q_descale=None, k_descale=None, v_descale=None, "
    "window_size=(-1, -1), attention_chunk=0, softcap=0.0, num_splits=1, pack_gqa=None, deterministic=False, "
    "sm_margin=0, return_attn_probs=False, page_table=None, learnable_sink=None, s_aux=None, out=None)"
)
SIGNATURE_QKVPACKED = (
    "(qkv, softmax_scale=None, causal=False, q_descale=None, k_descale=None, v_descale=None, "
    "window_size=(-1, -1), attention_chunk=0, softcap=0.0, deterministic=False, num_heads_q=None, sm_margin=0, "
    "return_attn_probs=False, learnable_sink=None, s_aux=None, out=None)"
)
SIGNATURE_COMBINE = "(out_partial, lse_partial, out=None, out_dtype=None)"
SIGNATURE_KVCACHE = (
    "(q, k_cache, v_cache, k=None, v=None, qv=None, rotary_cos=None, rotary_sin=None, cache_seqlens=None, "
    "cache_batch_idx=None, cache_leftpad=None, page_table=None, cu_seqlens_q=None, cu_seqlens_k_new=None, "
    "max_seqlen_q=None, rotary_seqlens=None, q_descale=None, k_descale=None, v_descale=None, "
    "softmax_scale=None, causal=False, window_size=(-1, -1), attention_chunk=0, softcap=0.0, "
    "rotary_interleaved=True, scheduler_metadata=None, num_splits=0, pack_gqa=None, sm_margin=0, "
    "return_softmax_lse=False, learnable_sink=None, s_aux=None, out=None)"
)
SIGNATURE_APPEND = (
    "(k_cache, v_cache, k, v, cache_seqlens, cache_batch_idx=None, page_table=None, cu_seqlens_k_new=None, "
    "rotary_cos=None, rotary_sin=None, rotary_seqlens=None, rotary_interleaved=True)"
)
SIGNATURE_METADATA = (
    "(batch_size, max_seqlen_q, max_seqlen_k, num_heads_q, num_heads_kv, headdim, cache_seqlens, "
    "qkv_dtype=torch.bfloat16, headdim_v=None, cu_seqlens_q=None, cu_seqlens_k_new=None, cache_leftpad=None, "
    "page_size=None, max_seqlen_k_new=0, causal=False, window_size=(-1, -1), attention_chunk=0, "
    "has_softcap=False, num_splits=0, pack_gqa=None, sm_margin=0)"
)
FUNCTIONS = (
    (flash_attn_func, SIGNATURE),
    (flash_attn_varlen_func, SIGNATURE_VARLEN),
    (flash_attn_qkvpacked_func, SIGNATURE_QKVPACKED),
    (flash_attn_combine, SIGNATURE_COMBINE),
    (flash_attn_with_kvcache, SIGNATURE_KVCACHE),
    (flash_attn_append_kvcache, SIGNATURE_APPEND),
    (get_scheduler_metadata, SIGNATURE_METADATA),
)


def _tensor(*shape, dtype=torch.bfloat16, device="meta"):
    return torch.empty(shape, dtype=dtype, device=device)


Q, K = _tensor(2, 64, 4, 128), _tensor(2, 33, 2, 128)
HELD = ", ".join(
    f"{head_dim}/{head_dim_v}"
    for head_dim, head_dim_v in sorted(
        {(k.head_dim, k.head_dim_v) for k in _native.kernels() if k.op == "fwd" and k.dtype_in == "bf16"}
    )
)
SINK = _tensor(4, dtype=torch.float32)
PACKED_Q, PACKED_K = _tensor(64, 4, 128), _tensor(33, 2, 128)
STARTS, USED = _tensor(3, dtype=torch.int32), _tensor(2, dtype=torch.int32)
PAGES, TABLE = _tensor(9, 16, 2, 128), _tensor(2, 5, dtype=torch.int32)


@pytest.mark.parametrize(("function", "signature"), FUNCTIONS)
def test_the_signature_is_the_one_that_callers_use(function, signature):
    parameters = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in inspect.signature(function).parameters.values()
    ]
    assert str(inspect.Signature(parameters)) == signature


def test_public_names():
    names = [function.__name__ for function, _ in FUNCTIONS]
    assert sorted(flash_attn3.__all__) == sorted(["__version__", *names])
    for function, _ in FUNCTIONS:
        assert function is getattr(flash_attn3, function.__name__)
        for name in inspect.signature(function).parameters:
            assert f"\n    {name}: " in (inspect.getdoc(function) or "")


@pytest.mark.parametrize(
    ("tensors", "error", "message"),
    [
        ((1, K, K), TypeError, "q must be a torch.Tensor; its type is int"),
        ((Q, None, K), TypeError, "k must be a torch.Tensor; its type is NoneType"),
        ((Q[0], K, K), ValueError, "q must have 4 dimensions, (batch, seqlen, heads, head_dim); its shape is (64, 4, 128)"),
        ((Q.float(), K, K), TypeError, "q must be torch.float16 or torch.bfloat16; it is torch.float32"),
        ((Q.to(torch.float8_e4m3fn), K, K), NotImplementedError, "q has no FP8 kernel yet: it must be torch.float16 or torch.bfloat16; it is torch.float8_e4m3fn"),
        ((Q, K.to(torch.float8_e5m2), K), NotImplementedError, "k has no FP8 kernel yet: it must be torch.float16 or torch.bfloat16; it is torch.float8_e5m2"),
        ((Q, K, K.to(torch.float8_e4m3fn)), NotImplementedError, "v has no FP8 kernel yet: it must be torch.float16 or torch.bfloat16; it is torch.float8_e4m3fn"),
        ((Q, K.half(), K), TypeError, "k must have the dtype of q, torch.bfloat16; it is torch.float16"),
        ((torch.zeros(Q.shape, dtype=torch.bfloat16), K, K), ValueError, "q must be a CUDA tensor; it is on cpu"),
        ((Q, torch.zeros(K.shape, dtype=torch.bfloat16), K), ValueError, "k must be a CUDA tensor; it is on cpu"),
        ((Q, K[:1], K[:1]), ValueError, "k must have the batch size of q, 2; its shape is (1, 33, 2, 128)"),
        ((Q, K, K[:, 1:]), ValueError, "v must have the seqlen and heads of k, (2, 33, 2, 128); its shape is (2, 32, 2, 128)"),
        ((Q, K[:, :, :0], K[:, :, :0]), ValueError, "k must have a number of heads that divides q's 4; it has 0"),
        ((Q, _tensor(2, 9, 3, 128), _tensor(2, 9, 3, 128)), ValueError, "k must have a number of heads that divides q's 4; it has 3"),
        ((Q, K[..., :64], K), ValueError, "k must have the head_dim of q, 128; its shape is (2, 33, 2, 64)"),
        ((_tensor(1, 2, 1, 257), _tensor(1, 2, 1, 257), _tensor(1, 2, 1, 8)), NotImplementedError, "q has head_dim 257 and v has 8; this build has kernels for torch.bfloat16 up to head_dim/head_dim_v " + HELD),
        ((Q, K, _tensor(2, 33, 2, 264)), NotImplementedError, "q has head_dim 128 and v has 264; this build has kernels for torch.bfloat16 up to head_dim/head_dim_v " + HELD),
        ((Q[..., :0], K[..., :0], K), ValueError, "q must have a head_dim of 1 or more; its shape is (2, 64, 4, 0)"),
    ],
)  # fmt: skip
def test_a_wrong_tensor_is_named(tensors, error, message):
    with pytest.raises(error) as caught:
        flash_attn_func(*tensors)
    assert str(caught.value) == message
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"softmax_scale": "1"}, TypeError, "softmax_scale must be a float or None; its type is str"),
        ({"causal": "yes"}, TypeError, "causal must be a bool; its type is str"),
        ({"qv": Q}, NotImplementedError, "qv has no kernel yet: it must be None; its type is Tensor"),
        ({"q_descale": 1.0}, TypeError, "q_descale must be a torch.Tensor or None; its type is float"),
        ({"k_descale": 1.0}, TypeError, "k_descale must be a torch.Tensor or None; its type is float"),
        ({"v_descale": (1,)}, TypeError, "v_descale must be a torch.Tensor or None; its type is tuple"),
        ({"window_size": (-2, -1)}, ValueError, "window_size must be -1 or more; it is -2"),
        ({"window_size": (1.5, -1)}, TypeError, "window_size must be an integer; its type is float, its value 1.5"),
        ({"window_size": 7}, TypeError, "window_size must be a pair of integers (left, right); it is 7"),
        ({"window_size": (1, 2, 3)}, TypeError, "window_size must be a pair of integers"),
        ({"attention_chunk": -1}, ValueError, "attention_chunk must be 0 or more; it is -1"),
        ({"attention_chunk": 2.0}, TypeError, "attention_chunk must be an integer; its type is float"),
        ({"softcap": -1.0}, ValueError, "softcap must be finite and 0 or more; it is -1.0"),
        ({"softcap": math.nan}, ValueError, "softcap must be finite and 0 or more; it is nan"),
        ({"softcap": math.inf}, ValueError, "softcap must be finite and 0 or more; it is inf"),
        ({"learnable_sink": SINK, "s_aux": SINK.clone()}, ValueError, "learnable_sink and s_aux are two names of one argument: give only one of them"),
        ({"learnable_sink": SINK[:3]}, ValueError, "learnable_sink must have shape (4,), one for each head of q; its shape is (3,)"),
        ({"s_aux": SINK.int()}, TypeError, "learnable_sink must have a floating dtype; it is torch.int32"),
        ({"s_aux": 1.0}, TypeError, "learnable_sink must be a torch.Tensor; its type is float"),
        ({"s_aux": torch.zeros(4)}, ValueError, "learnable_sink must be on the device of q, meta; it is on cpu"),
        ({"out": Q[1:]}, ValueError, "out must have shape (2, 64, 4, 128); its shape is (1, 64, 4, 128)"),
        ({"out": Q.half()}, TypeError, "out must have the dtype of q, torch.bfloat16; it is torch.float16"),
        ({"out": torch.zeros(Q.shape, dtype=Q.dtype)}, ValueError, "out must be on the device of q, meta; it is on cpu"),
        ({"out": 1}, TypeError, "out must be a torch.Tensor; its type is int"),
        ({"softcap": "a"}, TypeError, "softcap must be a float; its type is str"),
        ({"num_splits": 2.0}, TypeError, "num_splits must be an integer; its type is float, its value 2.0"),
        ({"num_splits": -1}, ValueError, "num_splits must be 0 or more; it is -1"),
        ({"num_splits": None}, TypeError, "num_splits must be an integer; its type is NoneType"),
        ({"pack_gqa": 1}, TypeError, "pack_gqa must be a bool or None; its type is int"),
        ({"deterministic": None}, TypeError, "deterministic must be a bool; its type is NoneType"),
        ({"sm_margin": -1}, ValueError, "sm_margin must be 0 or more; it is -1"),
        ({"sm_margin": 1.0}, TypeError, "sm_margin must be an integer; its type is float"),
    ],
    ids=str,
)  # fmt: skip
def test_a_wrong_option_is_named(options, error, message):
    with pytest.raises(error) as caught:
        flash_attn_func(Q, K, K, **options)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    "options",
    [
        {"num_splits": 0},
        {"num_splits": 2},
        {"num_splits": 128, "causal": True},
        {"pack_gqa": True},
        {"pack_gqa": False},
        {"deterministic": True},
        {"sm_margin": 4},
        {"window_size": [-1, -1]},
        {"window_size": (torch.tensor(-1), torch.tensor(-1))},
        {"window_size": (32, 63)},
        {"window_size": (-1, 0)},
        {"window_size": (torch.tensor(-1), torch.tensor(0))},
        {"window_size": (-1, 7), "causal": True},
        {"softmax_scale": 1},
        {"softmax_scale": -0.5},
        {"softcap": 0},
        {"softcap": 30.0, "causal": True},
        {"attention_chunk": 16},
        {"window_size": (4, -1), "causal": True},
        {"window_size": (torch.tensor(4), torch.tensor(2))},
        {"learnable_sink": SINK},
        {"s_aux": SINK.bfloat16()},
        {"learnable_sink": SINK, "s_aux": SINK},
    ],
    ids=str,
)
def test_options_are_accepted(options):
    out = flash_attn_func(Q, K, K, **options)
    assert out.shape == Q.shape


@pytest.mark.parametrize(
    "hints",
    [
        {"num_splits": 0},
        {"num_splits": 128},
        {"pack_gqa": True},
        {"deterministic": True},
        {"q_descale": SINK, "k_descale": SINK, "v_descale": SINK},
    ],
    ids=str,
)
def test_hints_do_not_leave_the_fast_path(monkeypatch, hints):
    """They have no effect, and a call with them takes the operator of one without."""
    monkeypatch.setattr("flash_attn3.attention.forward", None)
    assert flash_attn_func(Q, K, K, **hints).shape == Q.shape
    with pytest.raises(TypeError):
        flash_attn_func(Q, K, K, **hints, softcap=3.0)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"q": Q}, ValueError, "q must have 3 dimensions, (total_q, heads, head_dim); its shape is (2, 64, 4, 128)"),
        ({"k": K}, ValueError, "k must have 3 dimensions, (total_k, heads, head_dim); its shape is (2, 33, 2, 128)"),
        ({"cu_seqlens_q": STARTS.long()}, TypeError, "cu_seqlens_q must be torch.int32; it is torch.int64"),
        ({"cu_seqlens_q": [0, 3]}, TypeError, "cu_seqlens_q must be a torch.Tensor; its type is list"),
        ({"cu_seqlens_q": TABLE}, ValueError, "cu_seqlens_q must have shape (batch + 1,); its shape is (2, 5)"),
        ({"cu_seqlens_k": TABLE[0]}, ValueError, "cu_seqlens_k must have shape (3,); its shape is (5,)"),
        ({"cu_seqlens_k": TABLE[0, ::2]}, ValueError, "cu_seqlens_k must be contiguous; its stride is (2,)"),
        ({"cu_seqlens_k": torch.zeros(3, dtype=torch.int32)}, ValueError, "cu_seqlens_k must be on the device of q, meta; it is on cpu"),
        ({"seqused_q": STARTS}, ValueError, "seqused_q must have shape (2,); its shape is (3,)"),
        ({"seqused_k": USED.float()}, TypeError, "seqused_k must be torch.int32; it is torch.float32"),
        ({"page_table": TABLE, "seqused_k": USED, "k": PAGES, "v": PAGES}, ValueError, "cu_seqlens_k must be None with page_table"),
        ({"page_table": TABLE, "cu_seqlens_k": None, "k": PAGES, "v": PAGES}, ValueError, "seqused_k must be given with page_table"),
        ({"page_table": TABLE, "cu_seqlens_k": None, "seqused_k": USED}, ValueError, "k must have 4 dimensions, (pages, page_size, heads, head_dim)"),
        ({"page_table": TABLE[:1], "cu_seqlens_k": None, "seqused_k": USED, "k": PAGES, "v": PAGES}, ValueError, "page_table must have shape (batch, pages) with batch 2; its shape is (1, 5)"),
        ({"page_table": TABLE[:, ::2], "cu_seqlens_k": None, "seqused_k": USED, "k": PAGES, "v": PAGES}, ValueError, "page_table must have 1 as its last stride; its stride is (5, 2)"),
        ({"page_table": TABLE, "cu_seqlens_k": None, "seqused_k": USED, "k": PAGES[:, :0], "v": PAGES[:, :0]}, ValueError, "k must have a page_size of 1 or more"),
        ({"cu_seqlens_k": None, "k": K[:1], "v": K[:1]}, ValueError, "k must have the batch size of q, 2; its shape is (1, 33, 2, 128)"),
        ({"out": Q}, ValueError, "out must have shape (64, 4, 128); its shape is (2, 64, 4, 128)"),
        ({"softcap": -1.0}, ValueError, "softcap must be finite and 0 or more; it is -1.0"),
        ({"qv": Q}, NotImplementedError, "qv has no kernel yet"),
        ({"window_size": 3}, TypeError, "window_size must be a pair of integers"),
        ({"max_seqlen_q": torch.tensor(4.0)}, TypeError, "max_seqlen_q must be an integer or a tensor of one; its dtype is torch.float32"),
        ({"max_seqlen_k": torch.tensor(True)}, TypeError, "max_seqlen_k must be an integer or a tensor of one; its dtype is torch.bool"),
        ({"max_seqlen_k": STARTS}, ValueError, "max_seqlen_k must be an integer or a tensor of one; the shape of the tensor is (3,)"),
        ({"q": 1, "max_seqlen_q": TABLE[0, 0]}, TypeError, "q must be a torch.Tensor; its type is int"),
        ({"k": None, "max_seqlen_k": TABLE[0, 0]}, TypeError, "k must be a torch.Tensor; its type is NoneType"),
    ],
    ids=str,
)  # fmt: skip
def test_a_wrong_argument_of_varlen_is_named(changes, error, message):
    arguments = {
        "q": PACKED_Q,
        "k": PACKED_K,
        "v": changes.get("k", PACKED_K),
        "cu_seqlens_q": STARTS,
        "cu_seqlens_k": STARTS,
        "max_seqlen_q": 40,
        "max_seqlen_k": 30,
        **changes,
    }
    with pytest.raises(error) as caught:
        flash_attn_varlen_func(**arguments)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((1,), TypeError, "qkv must be a torch.Tensor; its type is int"),
        ((Q,), ValueError, "qkv must have shape (batch, seqlen, 3, heads, head_dim) where num_heads_q is None"),
        ((_tensor(1, 2, 2, 3, 8),), ValueError, "qkv must have shape (batch, seqlen, 3, heads, head_dim)"),
        ((_tensor(1, 2, 3, 3, 8), 2), ValueError, "qkv must have 4 dimensions"),
        ((Q, 3), ValueError, "num_heads_q must leave an even number of heads, at least 2, of the 4 heads of qkv; it is 3"),
        ((Q, 4), ValueError, "num_heads_q must leave an even number of heads"),
        ((Q, 0), ValueError, "num_heads_q must leave an even number of heads"),
    ],
    ids=str,
)  # fmt: skip
def test_a_wrong_packed_tensor_is_named(arguments, error, message):
    qkv, *heads = arguments
    with pytest.raises(error) as caught:
        flash_attn_qkvpacked_func(qkv, num_heads_q=heads[0] if heads else None)
    assert str(caught.value).startswith(message)


def test_a_gradient_and_out_exclude_each_other():
    with pytest.raises(
        ValueError, match="out must be None when q, k, v or learnable_sink requires a gradient"
    ):
        flash_attn_func(Q, K, K, learnable_sink=SINK.clone().requires_grad_(), out=torch.empty_like(Q))
