from __future__ import annotations

import pytest

from kernels.table import VARIANTS
from matrix.model import read_matrix
from matrix.serving import NEWER, Kind, compiled_for, serving_kind

EVERYTHING: tuple[tuple[int, Kind], ...] = (
    (90, "exact"),
    *((sm, "portable") for sm in (80, 86, 89, 90, 100, 120)),
    (80, "ptx"),
)


@pytest.mark.parametrize(
    ("sm", "kind"),
    [
        ("75", None),
        ("80", "portable"),
        ("86", "portable"),
        ("87", "portable"),  # a cubin runs on later minors of its major
        ("89", "portable"),
        ("90", "exact"),
        ("100", "portable"),
        ("103", "portable"),
        ("110", "ptx"),
        ("120", "portable"),
        ("121", "portable"),
        ("130", "ptx"),
        (NEWER, "ptx"),
    ],
)
def test_the_best_kernels_that_run_serve(sm: str, kind: Kind | None):
    assert serving_kind(sm, EVERYTHING) == kind


@pytest.mark.parametrize(
    ("sm", "kernels", "kind"),
    [
        ("90", [(90, "exact")], "exact"),
        ("90", [(90, "portable"), (80, "ptx")], "portable"),
        ("90", [(89, "portable"), (80, "ptx")], "ptx"),
        ("86", [(89, "portable")], None),
        ("103", [(100, "exact")], None),
        (NEWER, [(120, "portable"), (90, "exact")], None),
        ("80", [(90, "ptx")], None),
        ("80", [], None),
    ],
)
def test_a_kernel_runs_where_its_code_allows(sm: str, kernels: list[tuple[int, Kind]], kind: Kind | None):
    assert serving_kind(sm, kernels) == kind


def test_the_rows_of_the_table_tell_what_they_are_compiled_for():
    compiled = {compiled_for(row) for row in VARIANTS}
    assert compiled == set(EVERYTHING)


def test_the_table_serves_every_gpu_of_the_matrix_and_each_serves_one():
    names = [sm.name for sm in read_matrix().sm]
    compiled = {compiled_for(row) for row in VARIANTS if row.op == "fwd"}
    assert all(serving_kind(name, compiled) for name in names)
    for number, kind in compiled:
        assert (NEWER if kind == "ptx" else str(number)) in names
