from __future__ import annotations

import pytest
import torch

from flash_attn3.checks.cases.append import (
    CATEGORIES,
    LAYOUTS,
    LENGTHS,
    AppendCase,
    append_cases,
    fixed_cases,
)
from flash_attn3.checks.ops.append import CHECK
from flash_attn3.checks.trial import run_case
from tests.flash_attn3.plain_append import PlainAppend

CPU = torch.device("cpu")
CASES = append_cases(quick=False, samples=60, seed=5)
SMALL = [case for case in CASES if case.batch * max(case.seqlen_new, case.seqlen_q) * case.rows < 40_000]


def run_append_case(case, append):
    return run_case(CHECK, case, CPU, append)


@pytest.mark.parametrize("case", SMALL[::10], ids=lambda case: case.name)
def test_a_right_kernel_passes(case):
    assert run_append_case(case, PlainAppend()).failures == ()


FORMS = {
    "dense": {},
    "packed rows": {"packed": True, "entries": True},
    "pages": {"page_size": 3, "layout": "padded"},
    "odd rows": {"head_dim": 59, "layout": "misaligned"},
}
ROTATES = {"rotary_dim": 16, "own_positions": True}
ATTENDS = {"seqlen_q": 7, "causal": True}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("mistake", "options"),
    [
        ({"rows_too_far": 1}, {}),
        ({"rows_too_far": -1}, {}),
        ({"also_writes": 1}, {}),
        ({"keeps_values": 1}, {}),
        ({"length_off": 1}, {}),
        ({"forgets_rotation": 1}, ROTATES),
        ({"position_off": 1}, ROTATES),
        ({"forgets_queries": 1}, {**ROTATES, **ATTENDS}),
        ({"length_off": -1}, ATTENDS),
        ({"padding_off": -1}, {**ATTENDS, "leftpad": True, "seed": 3}),
    ],
    ids=str,
)
def test_a_wrong_kernel_fails(mistake, options, form):
    case = AppendCase("bf16", 3, 5, 40, 4, 2, **{**FORMS[form], **options})
    assert run_append_case(case, PlainAppend()).failures == ()
    assert not run_append_case(case, PlainAppend(**mistake)).passed


def test_what_lies_beside_the_cache_is_compared():
    def careless(q, k_cache, v_cache, *arguments, **options):
        result = PlainAppend()(q, k_cache, v_cache, *arguments, **options)
        v_cache.as_strided((1,), (1,), v_cache.storage_offset() - 1).fill_(0)
        return result

    outcome = run_append_case(AppendCase("fp16", 2, 3, 40, 4, 2), careless)
    assert outcome.failures == ("v_cache: 1 elements in it or around it differ from what they should be",)


def test_cases_are_all_there():
    fixed = fixed_cases()
    assert {case.category for case in fixed} == set(CATEGORIES)
    assert {case.layout for case in fixed} == set(LAYOUTS)
    assert {case.lengths for case in fixed} == set(LENGTHS)
    assert {case.page_size for case in fixed} == {0, 1, 3, 16, 64}
    for options in ("packed", "entries", "leftpad", "own_positions", "packed_q"):
        assert {getattr(case, options) for case in fixed} == {False, True}
    assert len({case.name for case in CASES}) == len(CASES)
