"""Checks of how torch traces the installed package, on a machine without a GPU."""

from __future__ import annotations

import torch
import torch._dynamo  # once, before the checks fork: it takes 40 s in an emulator
from torch._subclasses.fake_tensor import FakeTensorMode

from flash_attn3 import flash_attn_combine, flash_attn_func, flash_attn_varlen_func

_SHAPE = (2, 8, 4, 64)


def _empty(*shape: int, device: str = "meta", dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.empty(shape or _SHAPE, dtype=dtype, device=device)


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


CHECKS = (fake_tensors_have_the_shapes_of_results, torch_compile_traces_one_graph)
