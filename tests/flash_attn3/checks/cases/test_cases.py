from __future__ import annotations

import inspect

import pytest
import torch

from flash_attn3.checks.cases.case import DTYPES, AttentionCase
from flash_attn3.checks.cases.catalogue import full_cases, quick_cases
from flash_attn3.checks.cases.sampled import sampled_cases
from flash_attn3.checks.data.inputs import make_inputs
from flash_attn3.checks.data.layouts import LAYOUTS, PACKED_LAYOUTS
from flash_attn3.checks.data.values import VALUES

CPU = torch.device("cpu")
IN_MEMORY = sorted({*LAYOUTS, *PACKED_LAYOUTS} - {"far_batches"})


def test_names_tell_the_cases_apart():
    names = [case.name for case in full_cases(200, 3)]
    assert len(set(names)) == len(names) > 1500


@pytest.mark.parametrize("cases", [full_cases(0, 1), quick_cases()], ids=["full", "quick"])
def test_every_layout_and_value_is_used(cases):
    assert {case.values for case in cases} == set(VALUES)
    assert {case.layout for case in cases} >= set(IN_MEMORY)
    assert {case.dtype for case in cases} == set(DTYPES)
    assert {case.causal for case in cases} == {False, True}
    groups = {min(case.heads_kv, 2) if case.heads_kv < case.heads else 0 for case in cases}
    assert groups == {0, 1, 2}  # MHA, MQA, GQA


def test_samples_are_those_of_their_seed():
    assert sampled_cases(50, 7) == sampled_cases(50, 7)
    assert sampled_cases(50, 7) != sampled_cases(50, 8)
    assert all(case.heads % case.heads_kv == 0 for case in sampled_cases(300, 9))


@pytest.mark.parametrize("layout", IN_MEMORY)
def test_a_layout_changes_where_values_lie_and_nothing_else(layout):
    case = AttentionCase("bf16", False, 2, 5, 5, 4, 4, head_dim=16, layout=layout)
    plain = make_inputs(AttentionCase("bf16", False, 2, 5, 5, 4, 4, head_dim=16), CPU)
    inputs = make_inputs(case, CPU)
    for tensor, expected in ((inputs.q, plain.q), (inputs.k, plain.k), (inputs.v, plain.v)):
        assert tensor.shape == expected.shape
        if layout == "expanded_heads":
            expected = expected[:, :, :1].expand_as(expected)  # noqa: PLW2901
        elif layout == "expanded_batch":
            expected = expected[:1].expand_as(expected)  # noqa: PLW2901
        assert torch.equal(tensor, expected)


@pytest.mark.parametrize(
    "layout", sorted(set(IN_MEMORY) - {"contiguous", "offset", "qkv_packed", "kv_packed"})
)
def test_layouts_are_not_plain(layout):
    inputs = make_inputs(AttentionCase("bf16", False, 2, 5, 5, 4, 4, head_dim=16, layout=layout), CPU)
    assert not inputs.k.is_contiguous() or inputs.k.data_ptr() % 16


@pytest.mark.parametrize("layout", IN_MEMORY)
def test_memory_around_is_nan(layout):
    case = AttentionCase("fp16", False, 2, 5, 5, 4, 4, head_dim=16, layout=layout)
    inputs = make_inputs(case, CPU)
    for tensor in (inputs.q, inputs.k, inputs.v):
        memory = torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage())
        written = memory[~memory.isnan()].numel()
        expected = {"expanded_heads": 2 * 5 * 16, "expanded_batch": 5 * 4 * 16}.get(layout, 2 * 5 * 4 * 16)
        parts = {"qkv_packed": (3,), "kv_packed": (1, 2)}.get(layout, (1,))
        assert written in [expected * part for part in parts]
        assert memory[0].isnan()
        assert memory[-1].isnan()


@pytest.mark.parametrize("values", sorted(VALUES))
@pytest.mark.parametrize("dtype", DTYPES)
def test_values_are_finite_where_they_should_be(values, dtype):
    if dtype == "fp16" and values.startswith(("overflow", "climbing")):
        pytest.skip("float16 cannot hold these factors")
    inputs = make_inputs(AttentionCase(dtype, False, 2, 30, 40, 4, 2, values=values), CPU)
    finite = all(bool(tensor.isfinite().all()) for tensor in (inputs.q, inputs.k, inputs.v))
    assert finite == (values not in {"nan_in_q", "inf_in_v"})


def test_values_have_the_signature_that_inputs_call():
    assert {len(inspect.signature(values).parameters) for values in VALUES.values()} == {4}
