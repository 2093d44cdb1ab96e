"""The functions have the parameters of FlashAttention-3 in the same order; others follow them."""

from __future__ import annotations

import inspect
import re

import pytest
import torch

import flash_attn_3._C
import flash_attn_3.flash_attn_interface
import flash_attn_interface
from tests.compat.reference import SCHEMAS, SIGNATURES, entries

OFFERED_TOO = {"learnable_sink", "s_aux", "page_table", "out"}
_PARAMETER = re.compile(r"(\w+)(?:=(\([^)]*\)|[^,]+))?")


def _stated(signature: str) -> list[tuple[str, str | None]]:
    inside = signature[signature.index("(") + 1 : signature.rindex(")")]
    return [(name, default or None) for name, default in _PARAMETER.findall(inside)]


@pytest.mark.parametrize("name", entries(SIGNATURES))
def test_signature_is_the_one_that_callers_know(name: str):
    stated = _stated(entries(SIGNATURES)[name])
    parameters = list(inspect.signature(getattr(flash_attn_interface, name)).parameters.values())
    names = [parameter.name for parameter in parameters]
    assert names[: len(stated)] == [name for name, _ in stated]
    assert set(names[len(stated) :]) <= OFFERED_TOO
    assert {parameter.kind for parameter in parameters} == {inspect.Parameter.POSITIONAL_OR_KEYWORD}
    for parameter, (_, default) in zip(parameters, stated, strict=False):
        if default is not None:
            assert repr(parameter.default).replace(" ", "") == default, parameter


def test_what_stands_without_a_default_in_public_calls_is_required():
    required = {
        name: [
            parameter.name
            for parameter in inspect.signature(getattr(flash_attn_interface, name)).parameters.values()
            if parameter.default is parameter.empty
        ]
        for name in entries(SIGNATURES)
        if not name.startswith("_")
    }
    assert required == {
        name: [parameter for parameter, default in _stated(text) if default is None]
        for name, text in entries(SIGNATURES).items()
        if not name.startswith("_")
    }


def test_transformers_finds_the_options_that_it_looks_for_by_name():
    for name in ("flash_attn_varlen_func", "flash_attn_with_kvcache"):
        names = inspect.signature(getattr(flash_attn_interface, name)).parameters
        assert {"window_size", "softcap", "s_aux", "learnable_sink", "page_table"} <= names.keys()


def test_forward_is_a_plain_function_so_that_its_signature_can_be_read():
    assert inspect.isfunction(flash_attn_interface._flash_attn_forward)


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'flash_attn_interface' has no attribute 'no_such_name'"):
        flash_attn_interface.no_such_name  # noqa: B018
    assert not hasattr(flash_attn_interface, "no_such_name")


def test_the_package_has_the_same_functions():
    for name in entries(SIGNATURES):
        ours = getattr(flash_attn_3.flash_attn_interface, name)
        assert ours is getattr(flash_attn_interface, name)


@pytest.mark.parametrize("name", entries(SCHEMAS))
def test_operator_has_the_schema_that_callers_know(name: str):
    operator = getattr(torch.ops.flash_attn_3, name).default
    assert operator._schema == torch._C.parse_schema(f"flash_attn_3::{entries(SCHEMAS)[name]}")
    assert str(operator._schema) == str(torch._C.parse_schema(f"flash_attn_3::{entries(SCHEMAS)[name]}"))


@pytest.mark.parametrize("name", entries(SCHEMAS))
def test_operator_runs_on_cuda(name: str):
    has_kernel = torch._C._dispatch_has_computed_kernel_for_dispatch_key(f"flash_attn_3::{name}", "CUDA")
    assert has_kernel
