"""Values whose logits grow reach what a kernel does that keeps a row's first maximum as long as it can."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from flash_attn3.checks.cases.case import DTYPES, AttentionCase
from flash_attn3.checks.cases.options import growing, with_head_dims
from flash_attn3.checks.cases.ragged import growing_ragged
from flash_attn3.checks.data.inputs import make_inputs
from flash_attn3.checks.truth.reference import Rows, Scoring, scores_of, visible_scores
from tests.flash_attn3.steady_attention import HIGH, OUTRUN, largest_share

CPU = torch.device("cpu")
BLOCKS = (64, 80, 128)
SMALL = AttentionCase("bf16", False, 1, 150, 701, 4, 2)


def follow(case, block):
    """Return how often each row's reference is raised, (batch, heads, rows), and whether it is outrun."""
    inputs = make_inputs(case, CPU)
    q, k, _ = inputs.padded
    scoring = Scoring(
        case.scale, case.causal, window=case.window, softcap=case.softcap, lengths=inputs.lengths
    )
    scores = scores_of(q.double() * case.scale, k.double())
    scores = visible_scores(scores, Rows(0, q.shape[1]), q.shape[1], scoring).flatten(1, 2) / math.log(2)
    reference = torch.full(scores.shape[:-1], -math.inf, dtype=torch.float64)
    raised, outrun = torch.zeros_like(reference), torch.zeros_like(reference, dtype=torch.bool)
    for start in reversed(range(0, k.shape[1], block)):
        seen = scores[..., start : start + block]
        seen = torch.nn.functional.pad(seen, (0, block - seen.shape[-1]), value=-math.inf)
        reference = torch.where(reference == -math.inf, seen.amax(-1), reference)
        offset = torch.where(reference == -math.inf, 0.0, reference)
        share = largest_share(torch.exp2(seen - offset[..., None]))
        outrun |= share > OUTRUN
        raised += share > HIGH
        reference = torch.where(share > HIGH, reference + share.log2().floor(), reference)
    return raised, outrun


def few_rows(case):
    return (make_inputs(case, CPU).padded[0][..., 0] > 2).transpose(1, 2)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("head_dim", [64, 256])
@pytest.mark.parametrize("dtype", DTYPES)
def test_values_grow_as_they_say(dtype, head_dim, causal, block):
    case = replace(SMALL, dtype=dtype, head_dim=head_dim, causal=causal, seed=head_dim + block)
    raised, outrun = follow(replace(case, values="rising_keys"), block)
    assert raised.min() >= 2
    assert not outrun.any()
    _, outrun = follow(replace(case, values="outrunning_keys"), block)
    assert outrun.all()
    rows = replace(case, values="outrunning_rows")
    raised, outrun = follow(rows, block)
    assert torch.equal(outrun, few_rows(rows))
    assert 0 < outrun.float().mean() < 0.05
    assert raised[~outrun].max() >= 1
    raised, _ = follow(replace(case, values="normal"), block)
    assert raised.max() == 0


@pytest.mark.parametrize("case", [*growing(["bf16"]), *growing_ragged(["fp16"])], ids=lambda case: case.name)
def test_every_case_reaches_its_path(case):
    """In its first rows at least; with a tight softcap nothing outruns."""
    raised, outrun = follow(case, 128)
    assert raised.max() >= 1
    assert bool(outrun.any()) == (case.values != "rising_keys" and not 0 < case.softcap < 20)


def test_few_queries_outrun_in_some_heads_only():
    case = with_head_dims(AttentionCase("bf16", True, 2, 1, 1501, 16, 2, values="outrunning_rows"), (64, 64))
    _, outrun = follow(case, 128)
    assert outrun[0, :, 0].nonzero().flatten().tolist() == [1]
