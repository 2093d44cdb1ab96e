from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from flash_attn3.checks.truth import reference
from flash_attn3.checks.truth.reference import Rows, Scoring, attention_fp64, attention_same_precision

SHAPES = [(1, 1, 1, 1, 1), (2, 7, 7, 4, 4), (2, 5, 9, 6, 2), (3, 9, 5, 4, 1), (1, 33, 65, 3, 3)]


def _inputs(shape, dtype=torch.float64, head_dim=16):
    batch, seqlen_q, seqlen_k, heads, heads_kv = shape
    generator = torch.Generator().manual_seed(sum(shape))
    q = torch.randn(batch, seqlen_q, heads, head_dim, generator=generator)
    k, v = (torch.randn(batch, seqlen_k, heads_kv, head_dim, generator=generator) for _ in range(2))
    return q.to(dtype), k.to(dtype), v.to(dtype)


def _torch_attention(q, k, v, scale, causal):
    seqlen_q, seqlen_k = q.shape[1], k.shape[1]
    mask = torch.ones(seqlen_q, seqlen_k, dtype=torch.bool)
    if causal:
        mask = mask.tril(seqlen_k - seqlen_q)
    q, k, v = (tensor.transpose(1, 2) for tensor in (q, k, v))
    return scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=True).transpose(1, 2)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_out_is_that_of_torch(shape, causal):
    q, k, v = _inputs(shape)
    found = attention_fp64(q, k, v, Scoring(0.3, causal))
    expected = _torch_attention(q, k, v, 0.3, causal)
    visible = shape[1] - shape[2] if causal and shape[1] > shape[2] else 0
    torch.testing.assert_close(found.out[:, visible:], expected[:, visible:], rtol=1e-12, atol=1e-12)
    assert not found.out[:, :visible].any()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_lse_is_the_logarithm_of_the_sum_of_exponentials(shape, causal):
    q, k, v = _inputs(shape)
    lse = attention_fp64(q, k, v, Scoring(0.3, causal)).lse
    batch, seqlen_q, seqlen_k, heads, heads_kv = shape
    for b in range(batch):
        for h in range(heads):
            for i in range(seqlen_q):
                last = min(seqlen_k, i + seqlen_k - seqlen_q + 1) if causal else seqlen_k
                keys = k[b, : max(0, last), h // (heads // heads_kv)]
                expected = (
                    math.log(sum(math.exp(0.3 * float(q[b, i, h] @ key)) for key in keys))
                    if len(keys)
                    else -math.inf
                )
                assert float(lse[b, h, i]) == pytest.approx(expected, rel=1e-12)


def test_without_keys_out_is_0_and_lse_is_minus_infinity():
    q, k, v = _inputs((2, 3, 0, 2, 1))
    found = attention_fp64(q, k, v, Scoring(1.0, False))
    assert found.out.shape == (2, 3, 2, 16)
    assert not found.out.any()
    assert bool((found.lse == -math.inf).all())
    assert not attention_same_precision(q, k, v, Scoring(1.0, False)).any()


@pytest.mark.parametrize("causal", [False, True])
def test_blocks_of_rows_do_not_show(monkeypatch, causal):
    q, k, v = _inputs((2, 33, 20, 4, 2))
    whole = attention_fp64(q, k, v, Scoring(0.2, causal))
    plain = attention_same_precision(q, k, v, Scoring(0.2, causal))
    monkeypatch.setattr(reference, "_BLOCK_SCORES", 2 * 4 * 20 * 5)
    blocks = attention_fp64(q, k, v, Scoring(0.2, causal))
    torch.testing.assert_close(blocks.out, whole.out, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(blocks.lse, whole.lse, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(
        attention_same_precision(q, k, v, Scoring(0.2, causal)), plain, rtol=1e-13, atol=1e-13
    )


def test_some_rows_are_those_of_the_whole():
    q, k, v = _inputs((2, 33, 40, 4, 2))
    whole = attention_fp64(q, k, v, Scoring(0.2, True))
    some = attention_fp64(q, k, v, Scoring(0.2, True), rows=Rows(10, 14))
    torch.testing.assert_close(some.out, whole.out[:, 10:14])
    torch.testing.assert_close(some.lse, whole.lse[:, :, 10:14])
    plain = attention_same_precision(q, k, v, Scoring(0.2, True))
    torch.testing.assert_close(
        attention_same_precision(q, k, v, Scoring(0.2, True), rows=Rows(10, 14)), plain[:, 10:14]
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_same_precision_rounds_but_agrees(dtype):
    q, k, v = _inputs((2, 40, 50, 4, 2), dtype)
    plain = attention_same_precision(q, k, v, Scoring(0.25, True))
    truth = attention_fp64(q, k, v, Scoring(0.25, True)).out
    assert plain.dtype == dtype
    error = float((plain.double() - truth).abs().max())
    assert 0 < error < 20 * torch.finfo(dtype).eps
