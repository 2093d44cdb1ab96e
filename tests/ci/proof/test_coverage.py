"""What a report must have run of a wheel."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hypothesis import given
from hypothesis import strategies as st

from ci.proof.coverage import CompiledKernel, find_gaps
from ci.proof.report import Report
from flash_attn3.checks.kinds import BESIDE
from tests.ci.validation_kit import CASE, KERNEL, document, tallied

if TYPE_CHECKING:
    from collections.abc import Sequence

EXACT = CompiledKernel(KERNEL, "fwd", 90, "exact")
PORTABLE = CompiledKernel("portable", "fwd", 80, "portable")
PTX = CompiledKernel("ptx", "fwd", 80, "ptx")
LATER = CompiledKernel("later", "fwd", 100, "exact")
COMBINE = CompiledKernel("join", "combine", 90, "portable")
CATEGORIES = {"fwd": ("plain", "layout"), "combine": ("plain",)}


def case(kernel: CompiledKernel, category: str = "plain") -> dict[str, Any]:
    params = {"kernels": kernel.code, "kernel": kernel.name}
    section = "correctness" if kernel.op == "fwd" else kernel.op
    return {**CASE, "section": section, "category": category, "params": params}


def report_of(cases: Sequence[dict[str, Any]], **changes: Any) -> Report:
    fields = document(**tallied(*cases), sections=["correctness", "combine"], report_sha256="0" * 64)
    return Report.model_validate({**fields, **changes}, strict=False)


def every(*kernels: CompiledKernel) -> list[dict[str, Any]]:
    return [case(kernel, category) for kernel in kernels for category in CATEGORIES[kernel.op]]


def test_a_report_that_ran_every_kernel_with_every_category_has_no_gap() -> None:
    report = report_of(every(EXACT, PTX, COMBINE))
    assert find_gaps(report, [EXACT, PORTABLE, PTX, LATER, COMBINE], 1) == ()


def test_one_case_proves_one_category_of_one_kernel() -> None:
    assert find_gaps(report_of([case(EXACT)]), [EXACT, PTX, LATER, COMBINE], 1) == (
        f"{KERNEL}: 0 cases of category layout passed, of 1 needed",
        "ptx: 0 cases of category plain passed, of 1 needed",
        "ptx: 0 cases of category layout passed, of 1 needed",
        "join: 0 cases of category plain passed, of 1 needed",
        "the section combine ran no check",
    )


def test_cases_count_for_their_own_operator_and_category() -> None:
    other = {**case(EXACT, "layout"), "section": "memory"}
    assert find_gaps(report_of([*every(COMBINE), case(EXACT), other]), [EXACT, COMBINE], 1) == (
        f"{KERNEL}: 0 cases of category layout passed, of 1 needed",
    )


def test_a_call_of_several_launches_counts_for_each_of_their_kernels() -> None:
    before, main = replace(PORTABLE, name="before"), replace(EXACT, name="main")
    together = replace(main, name=f"{before.name}{BESIDE}{main.name}")
    cases = every(together)
    assert find_gaps(report_of([*cases, *every(COMBINE)]), [before, main, COMBINE], 1) == ()
    assert find_gaps(report_of([*cases, *every(COMBINE)]), [before, EXACT, COMBINE], 1) != ()


def test_a_gpu_needs_the_kernels_that_run_on_it() -> None:
    on_a100 = report_of(every(PORTABLE, PTX, COMBINE), compute_capability="8.0")
    assert find_gaps(on_a100, [EXACT, PORTABLE, PTX, LATER], 1) == ()
    made_up = report_of(every(EXACT, COMBINE), compute_capability="42.0")
    assert find_gaps(made_up, [EXACT, PORTABLE], 1) == ("the wheel has no kernel for sm_420",)


def test_an_operator_without_a_section_is_a_gap() -> None:
    """An older wheel's checks, or a report with the operator cut out."""
    kernel = replace(EXACT, name="bwd", op="bwd")
    assert find_gaps(report_of(every(EXACT, COMBINE)), [kernel], 1) == (
        "bwd: the report has no cases of the operator bwd",
    )


@given(
    st.lists(st.sampled_from((case(EXACT), case(EXACT, "layout"), case(PTX), case(PTX, "layout")))),
    st.integers(1, 4),
)
def test_the_minimum_holds_for_each_kernel_and_category(cases: list[dict[str, Any]], minimum: int) -> None:
    counts = [cases.count(one) for one in every(EXACT, PTX)]
    report = report_of([*cases, *every(COMBINE)], sections=["combine"])
    assert len(find_gaps(report, [EXACT, PTX], minimum)) == sum(count < minimum for count in counts)
