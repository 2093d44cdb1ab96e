"""The assembler's report is read from its log, and a kernel that breaks a gate is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kernels.build.report import broken_gates, check_gates, read_report
from kernels.errors import GateError
from kernels.table import select

(COMBINE,) = select(["combine_sm80"])
LOG = """ptxas info    : Compiling entry function 'k' for 'sm_80'
ptxas info    : Function properties for k
    {stack} bytes stack frame, {stores} bytes spill stores, {loads} bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 4224 bytes smem, 504 bytes cmem[0]
{more}"""


def log(stack: int = 0, stores: int = 0, loads: int = 0, more: str = "") -> str:
    return LOG.format(stack=stack, stores=stores, loads=loads, more=more)


def test_a_report_is_read_from_the_assembler():
    report = read_report(COMBINE, "12.8", 7, log())
    assert (report.registers, report.barriers, report.static_smem_bytes) == (40, 1, 4224)
    assert broken_gates(report) == {}
    with pytest.raises(GateError, match=r"combine_sm80: CUDA 12\.8 gave no resource report"):
        read_report(COMBINE, "12.8", 7, "nothing of use")


@pytest.mark.parametrize(
    ("gate", "words", "seen"),
    [
        ("spill", log(stores=8, loads=4), "8 bytes stored, 4 loaded"),
        ("local-memory", log(stack=16), "16 bytes of stack"),
        ("local-memory", log(more="ptxas warning : Local memory used for function 'k'"), "0 bytes of stack"),
        (
            "wgmma",
            log(more="ptxas info : (C7510) wgmma is serialized"),
            "ptxas info : (C7510) wgmma is serialized",
        ),
    ],
)
def test_a_broken_gate_is_refused_unless_the_variant_allows_it(gate: str, words: str, seen: str):
    report = read_report(COMBINE, "12.8", 7, words)
    assert broken_gates(report) == {gate: seen}
    with pytest.raises(GateError) as caught:
        check_gates(COMBINE, report)
    assert str(caught.value) == f"variant combine_sm80: CUDA 12.8: {gate}: {seen}"
    check_gates(replace(COMBINE, allow=((gate, "reason"),)), report)
