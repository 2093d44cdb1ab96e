from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from flash_attn3.checks.ops.combine import CHECK, HEAD_DIMS, OUT_DTYPES, SPLITS, CombineCase, combine_cases
from flash_attn3.checks.trial import run_case
from tests.flash_attn3.plain_combine import PlainCombine

CPU = torch.device("cpu")
CASES = combine_cases(quick=False)
SMALL = [c for c in CASES if c.splits * c.batch * c.seqlen * c.heads * c.head_dim_v < 1 << 20]


def run_combine_case(case, combine, device):
    return run_case(CHECK, case, device, combine)


@pytest.mark.parametrize("case", SMALL[::20], ids=lambda case: case.name)
def test_a_right_kernel_passes(case):
    assert run_combine_case(case, PlainCombine(), CPU).failures == ()


@pytest.mark.parametrize("dtype", OUT_DTYPES)
@pytest.mark.parametrize(
    "mistake",
    [
        {"drop_last": True},
        {"base_2": True},
        {"multiplies_empty": True},
        {"lse_of_empty": 0.0},
        {"unscaled": True},
        {"lse_contiguous": True},
        {"ignores_out": True},
        {"writes_padding": True},
        {"skips_last_head": True},
    ],
    ids=lambda mistake: next(iter(mistake)),
)
def test_a_wrong_kernel_fails(mistake, dtype):
    cases = [CombineCase(dtype, 4, 2, 20, 3, 64, empty=empty, layout="padded") for empty in ("some", "rows")]
    assert all(run_combine_case(case, PlainCombine(), CPU).passed for case in cases)
    assert not all(run_combine_case(case, PlainCombine(**mistake), CPU).passed for case in cases)


def test_partial_results_must_not_be_rounded():
    case = CombineCase("fp32", 4, 2, 20, 3, 64)
    assert not run_combine_case(case, PlainCombine(rounds_partials=True), CPU).passed
    assert run_combine_case(replace(case, splits=1), PlainCombine(), CPU).passed


def test_cases_are_all_there():
    assert len({case.name for case in CASES}) == len(CASES)
    assert {case.splits for case in CASES} == set(SPLITS)
    assert {case.head_dim_v for case in CASES} == set(HEAD_DIMS)
    for case in CASES:
        assert not case.packed or case.batch == 1
