"""Checks of the installed package on a machine without a GPU, with a torch for CPUs."""

from __future__ import annotations

import json
from pathlib import Path

import torch

import flash_attn3
from flash_attn3 import _native, flash_attn_func
from flash_attn3._build import read_build
from flash_attn3._installation import inspect_installation
from flash_attn3._ops import operators


def the_library_is_of_the_package() -> None:
    """Both are of one version, and the pack holds the kernels that `build.json` lists."""
    assert _native.version() == read_build().release
    listed = json.loads((Path(flash_attn3.__file__).parent / "build.json").read_text())["kernels"]
    assert sorted(kernel.name for kernel in _native.kernels()) == sorted(kernel["name"] for kernel in listed)


def every_operator_is_registered() -> None:
    registered = {name for name in torch._C._dispatch_get_all_op_names() if name.startswith("flash_attn3::")}
    assert registered == {f"flash_attn3::{operator.name}" for operator in operators()}


def the_lack_of_a_gpu_is_explained() -> None:
    found = inspect_installation()
    assert not found.gpus
    assert "the CUDA driver was not found: libcuda.so.1" in found.reason
    assert f"torch {torch.__version__} was built without CUDA" in found.reason


def a_call_on_the_cpu_is_refused() -> None:
    q, refusal = torch.empty(2, 8, 4, 64, dtype=torch.bfloat16), ""
    try:
        flash_attn_func(q, q, q)
    except ValueError as error:
        refusal = str(error)
    assert refusal == "q must be a CUDA tensor; it is on cpu"


CHECKS = (
    the_library_is_of_the_package,
    every_operator_is_registered,
    the_lack_of_a_gpu_is_explained,
    a_call_on_the_cpu_is_refused,
)
