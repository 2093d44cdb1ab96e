from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from flash_attn3 import _native
from flash_attn3._native import Code, Kernel
from flash_attn3.checks import kinds
from flash_attn3.checks.cases.case import Case
from flash_attn3.checks.kinds import Kind, kinds_on
from flash_attn3.checks.outcome import Outcome

CASE = Case("bf16", False, 1, 5, 5, 1, 1, head_dim=64)
KERNELS = (
    Kernel("a", "fwd", "full", "12.8", 90, "bf16", 64, 64, "exact"),
    Kernel("b", "fwd", "any", "12.8", 80, "bf16", 64, 512, "portable"),
    Kernel("c", "fwd", "any", "12.8", 90, "bf16", 64, 512, "portable"),
    Kernel("d", "combine", "any", "12.8", 90, "fp32", 0, 0, "portable"),
    Kernel("e", "fwd", "any", "12.8", 80, "fp16", 128, 128, "ptx"),
)
LONG = Kernel("l", "fwd", "causal", "12.8", 90, "bf16", 64, 64, "exact", min_seqlen_q=2048)


@pytest.fixture
def on(monkeypatch):
    """What a GPU of this compute capability runs, of the kernels above if of no others."""

    def find(capability, kernels=KERNELS):
        monkeypatch.setattr(_native, "kernels", lambda: kernels)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
        found = kinds_on(torch.device("cuda", 0))
        return {kind.name: "".join(kernel.name for kernel in kind.kernels) for kind in found}

    return find


def test_a_gpu_has_the_kinds_that_it_can_run(on):
    assert on((9, 0)) == {"exact": "a", "portable": "cd", "ptx": "e"}
    assert on((8, 6)) == {"portable": "b", "ptx": "e"}
    assert on((10, 3)) == {"ptx": "e"}
    assert on((7, 5)) == {}


def test_kernels_for_long_sequences_are_a_kind_of_their_own(on):
    """Beside the others of their code, which serve what there is no schedule for long sequences for."""
    kernels = (*KERNELS, LONG)
    assert on((9, 0), kernels) == {"exact": "al", "exact_long": "al", "portable": "cd", "ptx": "e"}
    assert on((8, 6), kernels) == {"portable": "b", "ptx": "e"}


def test_kernels_for_long_sequences_cover_what_they_would_serve():
    long = Kind(Code.EXACT, (*KERNELS[:2], LONG, replace(LONG, head_dim=96)), as_long=True)
    changes = (
        ({"causal": True}, True),
        ({"causal": True, "head_dim": 16}, True),
        ({"causal": True, "head_dim": 96, "head_dim_v": 64}, True),
        ({}, False),  # the mask of another kernel
        ({"causal": True, "window": (5, 0)}, False),
        ({"causal": True, "attention_chunk": 8}, False),
        ({"causal": True, "softcap": 5.0}, False),
        ({"causal": True, "head_dim_v": 65}, False),  # a wider kernel without such a schedule
        ({"causal": True, "dtype": "fp16"}, False),
        ({"causal": True, "head_dim": 128}, False),  # no kernel at all
    )
    assert [long.covers(replace(CASE, **change)) for change, _ in changes] == [
        wanted for _, wanted in changes
    ]
    assert not long.combines


def test_a_kind_covers_what_one_of_its_kernels_takes():
    exact, portable = Kind(Code.EXACT, KERNELS[:1]), Kind(Code.PORTABLE, KERNELS[2:4])
    wide, other = Case(**{**vars(CASE), "head_dim_v": 65}), Case(**{**vars(CASE), "dtype": "fp16"})
    assert [exact.covers(case) for case in (CASE, wide, other)] == [True, False, False]
    assert [portable.covers(case) for case in (CASE, wide, other)] == [True, True, False]
    assert (exact.combines, portable.combines) == (False, True)
    assert portable.head_dims == ((64, 512),)


def test_a_kind_is_alone_until_the_end_and_after_an_error(monkeypatch):
    calls = []

    def record(codes=tuple(Code), seqlen_q=0):
        calls.append((codes, seqlen_q))

    monkeypatch.setattr(kinds._native, "allow_kernels", record)
    with pytest.raises(ZeroDivisionError), Kind(Code.PTX, KERNELS[4:]).alone():
        1 / len(calls[1:])  # fails: there is one call so far
    with Kind(Code.EXACT, (LONG,), as_long=True).alone():
        pass
    every = (tuple(Code), 0)
    assert calls == [((Code.PTX,), 0), every, ((Code.EXACT,), 2**31 - 1), every]


def test_an_outcome_says_which_kernels_ran():
    kind = Kind(Code.PORTABLE, KERNELS[2:4])
    marked = kind.mark(Outcome("correctness", "x", {"dtype": "bf16"}, {"max_error": 1.0}, ("wrong",)))
    assert (marked.name, marked.params) == ("x@portable", {"dtype": "bf16", "kernels": "portable"})
    assert (marked.figures, marked.failures) == ({"max_error": 1.0}, ("wrong",))
    assert kind.label("x") == marked.name
    marked = Kind(Code.EXACT, (LONG,), as_long=True).mark(Outcome("correctness", "x", {}, {}, ()))
    assert (marked.name, marked.params) == ("x@exact_long", {"kernels": "exact", "as_long": True})
