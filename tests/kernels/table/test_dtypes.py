from __future__ import annotations

import re

import pytest

from kernels.errors import UnknownDTypeError
from kernels.table.dtypes import ANY_DTYPE, DTYPES, dtype_name, dtype_named, dtype_number
from kernels.table.slabs import slabs


def test_the_numbers_are_those_of_the_c_abi():
    assert [(dtype.name, dtype.number) for dtype in DTYPES] == [("fp16", 0), ("bf16", 1), ("fp32", 2)]
    assert dtype_number(ANY_DTYPE) == 255


@pytest.mark.parametrize("name", [*(dtype.name for dtype in DTYPES), ANY_DTYPE])
def test_a_name_has_a_number_and_the_number_that_name(name: str):
    assert dtype_name(dtype_number(name)) == name


def test_a_dtype_has_its_size_and_its_type_in_device_code():
    assert {dtype.name: (dtype.bytes, dtype.cxx) for dtype in DTYPES} == {
        "fp16": (2, "fa3::Half"),
        "bf16": (2, "fa3::Bfloat16"),
        "fp32": (4, "float"),
    }


@pytest.mark.parametrize("name", ["fp8", "", "BF16", "any"])
def test_an_unknown_name_is_an_error_with_the_known_ones(name: str):
    message = f"dtype: got {name!r}, expected one of fp16, bf16, fp32"
    with pytest.raises(UnknownDTypeError, match=re.escape(message)):
        dtype_named(name)


def test_an_unknown_number_is_an_error_with_the_known_ones():
    message = "dtype number: got 3, expected one of 0 (fp16), 1 (bf16), 2 (fp32), 255 (any)"
    with pytest.raises(UnknownDTypeError, match=re.escape(message)):
        dtype_name(3)


@pytest.mark.parametrize(
    ("columns", "dtype", "wanted"),
    [(64, "bf16", 1), (65, "bf16", 2), (96, "fp16", 2), (32, "fp32", 1), (64, "fp32", 2), (0, "fp16", 0)],
)
def test_slabs_follow_from_the_size_of_an_element(columns: int, dtype: str, wanted: int):
    assert slabs(columns, dtype) == wanted


def test_slabs_of_an_unknown_dtype_are_an_error():
    with pytest.raises(UnknownDTypeError, match="'fp8'"):
        slabs(64, "fp8")
