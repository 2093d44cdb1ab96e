from __future__ import annotations

import inspect
import math

import pytest
import torch

import flash_attn3
from flash_attn3 import flash_attn_func
from flash_attn3._arguments import resolve_window

# The signature that callers of FlashAttention-3 rely on, position by position.
SIGNATURE = (
    "(q, k, v, softmax_scale=None, causal=False, qv=None, q_descale=None, k_descale=None, v_descale=None, "
    "window_size=(-1, -1), attention_chunk=0, softcap=0.0, num_splits=1, pack_gqa=None, deterministic=False, "
    "sm_margin=0, return_attn_probs=False)"
)


def _tensor(*shape, dtype=torch.bfloat16, device="meta"):
    return torch.empty(shape, dtype=dtype, device=device)


Q, K = _tensor(2, 64, 4, 128), _tensor(2, 33, 2, 128)


def test_the_signature_is_the_one_that_callers_use():
    parameters = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in inspect.signature(flash_attn_func).parameters.values()
    ]
    assert str(inspect.Signature(parameters)) == SIGNATURE


def test_public_names():
    assert flash_attn3.__all__ == ["__version__", "flash_attn_func"]
    assert flash_attn_func.__doc__ is not None
    for name in inspect.signature(flash_attn_func).parameters:
        assert f"\n        {name}: " in flash_attn_func.__doc__


@pytest.mark.parametrize(
    ("tensors", "error", "message"),
    [
        ((1, K, K), TypeError, "q must be a torch.Tensor; its type is int"),
        ((Q, None, K), TypeError, "k must be a torch.Tensor; its type is NoneType"),
        ((Q[0], K, K), ValueError, "q must have 4 dimensions, (batch, seqlen, heads, head_dim); its shape is (64, 4, 128)"),
        ((Q.float(), K, K), TypeError, "q must be torch.float16 or torch.bfloat16; it is torch.float32"),
        ((Q, K.half(), K), TypeError, "k must have the dtype of q, torch.bfloat16; it is torch.float16"),
        ((torch.zeros(Q.shape, dtype=torch.bfloat16), K, K), ValueError, "q must be a CUDA tensor; it is on cpu"),
        ((Q, torch.zeros(K.shape, dtype=torch.bfloat16), K), ValueError, "k must be a CUDA tensor; it is on cpu"),
        ((Q, K[:1], K[:1]), ValueError, "k must have the batch size of q, 2; its shape is (1, 33, 2, 128)"),
        ((Q, K, K[:, 1:]), ValueError, "v must have the seqlen and heads of k, (2, 33, 2, 128); its shape is (2, 32, 2, 128)"),
        ((Q, K[:, :, :0], K[:, :, :0]), ValueError, "k must have a number of heads that divides q's 4; it has 0"),
        ((Q, _tensor(2, 9, 3, 128), _tensor(2, 9, 3, 128)), ValueError, "k must have a number of heads that divides q's 4; it has 3"),
        ((Q, K[..., :64], K), ValueError, "k must have the head_dim of q, 128; its shape is (2, 33, 2, 64)"),
        ((Q[..., :40], K[..., :40], K[..., :40]), NotImplementedError, "q has head_dim 40 and v has 40; this build has kernels for torch.bfloat16 with head_dim/head_dim_v 128/128"),
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
        ({"q_descale": Q}, NotImplementedError, "q_descale has no kernel yet"),
        ({"k_descale": Q}, NotImplementedError, "k_descale has no kernel yet"),
        ({"v_descale": Q}, NotImplementedError, "v_descale has no kernel yet"),
        ({"window_size": (4, 4)}, NotImplementedError, "window_size has no kernel yet"),
        ({"window_size": (4, -1), "causal": True}, NotImplementedError, "window_size has no kernel yet"),
        ({"window_size": (-2, -1)}, ValueError, "window_size must be -1 or more; it is -2"),
        ({"window_size": (1.5, -1)}, TypeError, "window_size must be an integer; its type is float, its value 1.5"),
        ({"window_size": 7}, TypeError, "window_size must be a pair of integers (left, right); it is 7"),
        ({"window_size": (1, 2, 3)}, TypeError, "window_size must be a pair of integers"),
        ({"attention_chunk": 64}, NotImplementedError, "attention_chunk has no kernel yet: it must be 0; it is 64"),
        ({"attention_chunk": -1}, ValueError, "attention_chunk must be 0 or more; it is -1"),
        ({"softcap": 30.0}, NotImplementedError, "softcap has no kernel yet: it must be 0; it is 30.0"),
        ({"softcap": -1.0}, ValueError, "softcap must be 0 or more; it is -1.0"),
        ({"softcap": math.nan}, ValueError, "softcap must be 0 or more; it is nan"),
        ({"softcap": "a"}, TypeError, "softcap must be a float; its type is str"),
        ({"num_splits": 3}, NotImplementedError, "num_splits has no kernel yet: it must be 0 or 1; it is 3"),
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
    ],
    ids=str,
)
def test_options_without_effect_are_accepted(options):
    out = flash_attn_func(Q, K, K, **options)
    assert out.shape == Q.shape


def _visible(left, right, causal, seqlen_q, seqlen_k):
    right = 0 if causal else right
    seen = set()
    for i in range(seqlen_q):
        position = i + seqlen_k - seqlen_q
        for j in range(seqlen_k):
            if (left < 0 or j >= position - left) and (right < 0 or j <= position + right):
                seen.add((i, j))
    return seen


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    ("seqlen_q", "seqlen_k"), [(1, 1), (1, 4), (4, 1), (3, 5), (5, 3), (4, 4), (0, 3), (3, 0)]
)
def test_a_window_is_accepted_only_for_the_mask_that_it_is(seqlen_q, seqlen_k, causal):
    full = _visible(-1, -1, False, seqlen_q, seqlen_k)
    diagonal = _visible(-1, 0, False, seqlen_q, seqlen_k)
    for left in range(-1, 7):
        for right in range(-1, 7):
            wanted = _visible(left, right, causal, seqlen_q, seqlen_k)
            try:
                resolved = resolve_window((left, right), causal, seqlen_q, seqlen_k)
            except NotImplementedError:
                assert left >= 0 or right > 0
                continue
            assert wanted == (diagonal if resolved else full)
