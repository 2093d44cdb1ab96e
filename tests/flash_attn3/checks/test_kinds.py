from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from flash_attn3 import _native
from flash_attn3._native import Code, Kernel, NativeError, Status
from flash_attn3.checks import kinds
from flash_attn3.checks.cases.case import AttentionCase
from flash_attn3.checks.kinds import Kind, kernels_on, kinds_of
from flash_attn3.checks.ops.combine import CHECK as COMBINE
from flash_attn3.checks.ops.combine import CombineCase
from flash_attn3.checks.ops.fwd import CHECK as FORWARD
from flash_attn3.checks.outcome import Outcome
from flash_attn3.checks.trial import Trial
from tests.flash_attn3.checks.library_double import EVERY, Entry, LibraryDouble

CPU = torch.device("cpu")
CASE = AttentionCase("bf16", False, 1, 5, 5, 1, 1, head_dim=64)


def _kernel(name, op, sm, dtype, head_dim_v, code):  # noqa: PLR0917  a row of the table below
    return Kernel(
        name=name,
        op=op,
        mask="any",
        toolkit="12.8",
        sm=sm,
        dtype_in=dtype,
        dtype_out=dtype,
        head_dim=64,
        head_dim_v=head_dim_v,
        code=code,
    )


KERNELS = (
    _kernel("a", "fwd", 90, "bf16", 64, "exact"),
    _kernel("b", "fwd", 80, "bf16", 512, "portable"),
    _kernel("c", "fwd", 90, "bf16", 512, "portable"),
    _kernel("d", "combine", 90, "fp32", 0, "portable"),
    _kernel("e", "fwd", 80, "fp16", 128, "ptx"),
)
FULL = Entry("full", mask="full")
LONG = Entry("long", mask="causal", min_seqlen_q=2048)
PORTABLE = Entry("portable", code="portable", head_dim_v=512)
JOIN = Entry("join", code="portable", op="combine", head_dim=0, head_dim_v=0)


def _find(kind, case, check=FORWARD):
    return kind.find_kernel(Trial(check, case, CPU).kernel)


@pytest.fixture
def library(monkeypatch):
    """A function that makes the package see a pack with some kernels."""

    def install(*entries):
        double = LibraryDouble(entries)
        double.install(monkeypatch)
        return double

    return install


@pytest.mark.parametrize(
    ("capability", "forward", "combine"),
    [((9, 0), "ace", "d"), ((8, 6), "be", ""), ((10, 3), "e", ""), ((7, 5), "", "")],
)
def test_a_gpu_has_the_kernels_that_it_can_run(monkeypatch, capability, forward, combine):
    monkeypatch.setattr(_native, "kernels", lambda: KERNELS)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
    device = torch.device("cuda", 0)
    found = {op: "".join(kernel.name for kernel in kernels_on(device, op)) for op in ("fwd", "combine")}
    assert found == {"fwd": forward, "combine": combine}


def test_kinds_are_the_codes_of_the_kernels_the_preferred_one_first():
    names = [kind.name for kind in kinds_of(KERNELS[::-1])]
    assert names == ["exact", "exact_long", "portable", "portable_long", "ptx", "ptx_long"]
    assert [kind.name for kind in kinds_of(KERNELS[1:3])] == ["portable", "portable_long"]
    assert kinds_of(()) == ()


def test_a_case_is_served_by_the_kernel_that_the_library_names(library):
    library(FULL, PORTABLE, JOIN)
    wide, other = replace(CASE, head_dim_v=65), replace(CASE, dtype="fp16")
    assert [_find(Kind(Code.EXACT), case) for case in (CASE, wide, other)] == ["full", None, None]
    assert [_find(Kind(Code.PORTABLE), case) for case in (CASE, wide, other)] == [
        "portable",
        "portable",
        None,
    ]
    combine = CombineCase("bf16", 3, 2, 5, 2, 8)
    assert _find(Kind(Code.EXACT), combine, COMBINE) is None
    assert _find(Kind(Code.PORTABLE), combine, COMBINE) == "join"
    assert _find(Kind(Code.PORTABLE, as_long=True), combine, COMBINE) is None


@pytest.mark.parametrize(
    ("changes", "served"),
    [
        ({"causal": True}, True),
        ({"causal": True, "head_dim": 16}, True),
        ({"causal": True, "head_dim": 96, "head_dim_v": 64}, True),
        ({"causal": True, "form": "packed"}, True),
        ({"causal": True, "form": "padded", "seqlen_q": 4096}, True),
        ({"causal": True, "seqlen_q": 4096}, False),  # a long sequence: the kind without as_long runs it
        ({}, False),  # the mask of another kernel
        ({"causal": True, "window": (5, 0)}, False),
        ({"causal": True, "attention_chunk": 8}, False),
        ({"causal": True, "softcap": 5.0}, False),
        ({"causal": True, "head_dim_v": 65}, False),  # a wider kernel, which has no schedule for long ones
        ({"causal": True, "dtype": "fp16"}, False),
        ({"causal": True, "head_dim": 128}, False),  # no kernel at all
    ],
    ids=str,
)
def test_kernels_for_long_sequences_serve_what_others_would_have(library, changes, served):
    causal = Entry("causal", mask="causal")
    wide = Entry("wide", head_dim_v=512)
    library(FULL, causal, wide, LONG, replace(LONG, name="long 96", head_dim=96))
    found = _find(Kind(Code.EXACT, as_long=True), replace(CASE, **changes))
    assert (found is not None) == served
    assert found is None or found.startswith("long")


def test_only_a_missing_kernel_means_that_a_case_is_not_served(library, monkeypatch):
    double = library(FULL)

    def refuse(_arguments):
        raise NativeError(Status.INVALID_ARGUMENT, "q has stride 3")

    monkeypatch.setattr(_native, "forward_kernel", refuse)
    with pytest.raises(NativeError, match="q has stride 3"):
        _find(Kind(Code.EXACT), CASE)
    assert double.allowed == EVERY


def test_a_kind_is_alone_until_the_end_and_after_an_error(monkeypatch):
    calls = []

    def record(codes=tuple(Code), seqlen_q=0):
        calls.append((codes, seqlen_q))

    monkeypatch.setattr(kinds._native, "allow_kernels", record)
    with pytest.raises(ZeroDivisionError), Kind(Code.PTX).alone():
        1 / len(calls[1:])  # fails: there is one call so far
    with Kind(Code.EXACT, as_long=True).alone():
        pass
    every = (tuple(Code), 0)
    assert calls == [((Code.PTX,), 0), every, ((Code.EXACT,), 2**31 - 1), every]


def test_an_outcome_names_the_kernels_that_ran():
    kind = Kind(Code.PORTABLE)
    outcome = Outcome("correctness", "x", {"dtype": "bf16"}, {"max_error": 1.0}, ("wrong",))
    marked = kind.mark(outcome, "fwd_portable")
    assert marked.name == kind.label("x") == "x@portable"
    assert marked.params == {"dtype": "bf16", "kernels": "portable", "kernel": "fwd_portable"}
    assert (marked.figures, marked.failures) == ({"max_error": 1.0}, ("wrong",))
    marked = Kind(Code.EXACT, as_long=True).mark(Outcome("behaviour", "x", {}, {}, ()))
    assert (marked.name, marked.params) == ("x@exact_long", {"kernels": "exact", "as_long": True})
