"""Checks of the installed package on a machine without a GPU, with a torch for CPUs."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import flash_attn3
from flash_attn3 import _native, flash_attn_combine, flash_attn_func, flash_attn_varlen_func
from flash_attn3._build import read_build
from flash_attn3._installation import inspect_installation
from flash_attn3._ops import operators

_SHAPE = (2, 8, 4, 64)


def _empty(*shape: int, device: str = "meta", dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.empty(shape or _SHAPE, dtype=dtype, device=device)


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
    q, refusal = _empty(device="cpu"), ""
    try:
        flash_attn_func(q, q, q)
    except ValueError as error:
        refusal = str(error)
    assert refusal == "q must be a CUDA tensor; it is on cpu"


def fake_tensors_have_the_shapes_of_results() -> None:
    with FakeTensorMode():
        q = _empty(device="cuda")
        out, lse = flash_attn_func(q, q, q, causal=True, return_attn_probs=True)
        assert (out.shape, out.device.type, out.dtype) == (_SHAPE, "cuda", torch.bfloat16)
        assert (lse.shape, lse.dtype) == ((2, 4, 8), torch.float32)
        parts = _empty(3, *_SHAPE, device="cuda", dtype=torch.float32)
        combined, _ = flash_attn_combine(parts, _empty(3, *_SHAPE[:-1], device="cuda", dtype=torch.float32))
        assert (combined.shape, combined.device.type) == (_SHAPE, "cuda")


def torch_compile_traces_one_graph() -> None:
    targets: list[str] = []

    def keep(graph: torch.fx.GraphModule, _inputs: object) -> object:
        targets.extend(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return graph.forward

    def attention(q: torch.Tensor, packed: torch.Tensor, starts: torch.Tensor) -> object:
        varlen = flash_attn_varlen_func(packed, packed, packed, starts, starts, 8, 8)
        return flash_attn_func(q, q, q, window_size=(4, 0), softcap=5.0), varlen

    compiled = torch.compile(attention, backend=keep, fullgraph=True)
    out, varlen = compiled(_empty(), _empty(16, 4, 64), _empty(3, dtype=torch.int32))
    assert (out.shape, varlen.shape) == (_SHAPE, (16, 4, 64))
    assert sum(target.startswith("flash_attn3.") for target in targets) == 2


CHECKS = (
    the_library_is_of_the_package,
    every_operator_is_registered,
    the_lack_of_a_gpu_is_explained,
    a_call_on_the_cpu_is_refused,
    fake_tensors_have_the_shapes_of_results,
    torch_compile_traces_one_graph,
)
