from __future__ import annotations

import pytest
import torch

from flash_attn3.checks.behaviour.canary import find_damage
from flash_attn3.checks.behaviour.forward_memory import memory_cases, place_out
from flash_attn3.checks.data.inputs import make_inputs

CPU = torch.device("cpu")
LAYOUTS = ("contiguous", "bhsd", "padded")


def _is_taken_as_it_is(tensor):
    *strides, last = tensor.stride()
    return last == 1 and all(stride % 8 == 0 for stride in strides)


def test_every_case_is_one_that_the_kernels_take_without_a_copy():
    cases = memory_cases()
    assert any(case.head_dim % 8 for case, _ in cases)
    for case in {case for case, _ in cases}:
        inputs = make_inputs(case, CPU)
        assert all(map(_is_taken_as_it_is, (inputs.q, inputs.k, inputs.v))), case.name


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(2, 5, 3, 59), (7, 3, 257), (2, 5, 3, 64)])
def test_an_output_of_any_width_has_rows_that_are_written_in_place(shape, layout):
    buffer = place_out(shape, layout, CPU)
    assert buffer.bits.shape == shape
    assert _is_taken_as_it_is(buffer.bits)
    buffer.bits.fill_(1)
    assert list(find_damage(buffer.memory, buffer.bits, "out")) == []


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_written_to_a_padding_column_is_found(layout):
    buffer = place_out((2, 5, 3, 59), layout, CPU)
    buffer.bits.fill_(1)
    wider = buffer.bits.as_strided((2, 5, 3, 60), buffer.bits.stride())
    wider[1, 4, 2, 59] = 0
    (failure,) = find_damage(buffer.memory, buffer.bits, "out")
    assert failure.startswith("out: 1 elements outside were written")


def test_what_is_left_unwritten_is_found():
    buffer = place_out((2, 5, 3, 59), "padded", CPU)
    buffer.bits[:, 1:].fill_(1)
    assert list(find_damage(buffer.memory, buffer.bits, "out")) == [
        "out: 354 of 1770 elements were never written"
    ]
