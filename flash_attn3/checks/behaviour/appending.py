"""What calls that append to a cache must do beside computing the right values."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from flash_attn3.checks.cases.append import AppendCase
from flash_attn3.checks.data.append import AppendInputs, call, make_inputs
from flash_attn3.checks.truth.append import find_truth, judge_case

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from flash_attn3.checks.behaviour.canary import Results

    Function = Callable[..., Results]

_STEPS = (0, 1, 9, 100, 700)  # tokens by which a cache has grown
_DECODE = AppendCase(
    "bf16", 3, 1, 1000, 8, 2, 128, page_size=16, rotary_dim=128, own_positions=True, seqlen_q=1, causal=True
)
_ATTENDED = (
    _DECODE,
    replace(_DECODE, dtype="fp16", page_size=0, entries=True, seqlen_new=5, seqlen_q=5, own_positions=False),
    replace(_DECODE, page_size=0, seqlen_new=300, seqlen_q=300, packed=True, packed_q=True),
    replace(_DECODE, page_size=1, rotary_dim=0, leftpad=True, head_dim=64, seqlen_q=130),
    replace(_DECODE, page_size=0, leftpad=True, head_dim=256, causal=False, seqlen_new=70, seqlen_q=70),
    replace(_DECODE, lengths="full", head_dim=96, rotary_dim=32, interleaved=False, seqlen_new=40),
    replace(_DECODE, page_size=0, entries=True, leftpad=True, window=(50, 0), seqlen_q=200),
)


def replay_with_grown_lengths(function: Function, device: torch.device) -> Iterator[str]:
    """A captured call appends and attends as its lengths, tables and new rows say when it is replayed."""
    case = _DECODE
    inputs = make_inputs(case, device)
    buffers = [cache.buffer.clone() for cache in (inputs.k_cache, inputs.v_cache)]
    caches = _views(inputs, buffers)

    def attend() -> Results:
        return function(inputs.q, *caches, inputs.k, inputs.v, **inputs.options)

    attend()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = attend()
    for step in _STEPS:
        grown = _grown(case, step, device)
        for target, source in zip(
            _arguments(inputs, buffers), _arguments(grown, _buffers(grown)), strict=True
        ):
            target.copy_(source)
        graph.replay()
        torch.cuda.synchronize(device)
        judgement = judge_case(case, grown, find_truth(case, grown), (*buffers, *captured))
        yield from (f"{step} tokens later: {failure}" for failure in judgement.failures)


def _grown(case: AppendCase, step: int, device: torch.device) -> AppendInputs:
    """Return other inputs of the same shapes, whose lengths are about ``step``."""
    for seed in range(1000):
        inputs = make_inputs(replace(case, seed=1000 * step + seed), device)
        if step <= max(inputs.before) <= step + 300:
            return inputs
    raise ValueError(f"no seed gives lengths near {step}")


def _buffers(inputs: AppendInputs) -> list[Tensor]:
    return [inputs.k_cache.buffer, inputs.v_cache.buffer]


def _views(inputs: AppendInputs, buffers: list[Tensor]) -> list[Tensor]:
    both = zip((inputs.k_cache, inputs.v_cache), buffers, strict=True)
    return [cache.view(buffer) for cache, buffer in both]


def _arguments(inputs: AppendInputs, buffers: list[Tensor]) -> list[Tensor]:
    """Return every tensor of a call, in one order."""
    named = (inputs.options[name] for name in sorted(inputs.options))
    options = [value for value in named if isinstance(value, torch.Tensor)]
    assert inputs.q is not None  # noqa: S101  of a case that attends
    return [*buffers, inputs.q, inputs.k, inputs.v, *options]


def attends_with_every_kernel(function: Function, device: torch.device) -> Iterator[str]:
    """Attention behind an append is right with the kernels that a call prefers, too."""
    for case in _ATTENDED:
        inputs = make_inputs(case, device)
        judgement = judge_case(case, inputs, find_truth(case, inputs), call(function, case, inputs))
        yield from (f"{case.name}: {failure}" for failure in judgement.failures)


def repeats_equal(function: Function, device: torch.device) -> Iterator[str]:
    """A call gives the same bits every time."""
    for case in _ATTENDED:
        inputs = make_inputs(case, device)
        first: Any = call(function, case, inputs)
        for _ in range(10):
            again = call(function, case, inputs)
            if not all(torch.equal(a, b) for a, b in zip(first, again, strict=True)):
                yield f"{case.name}: a repeated call gives another result"
                break
