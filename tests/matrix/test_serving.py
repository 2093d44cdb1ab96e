from __future__ import annotations

import pytest

from kernels.table import VARIANTS
from matrix.model import read_matrix
from matrix.serving import NEWER, Code, compiled_for, serving, serving_code, targets_by_operator

EVERYTHING: tuple[tuple[int, Code], ...] = (
    (90, "exact"),
    *((sm, "portable") for sm in (80, 86, 89, 90, 100, 120)),
    (80, "ptx"),
)


@pytest.mark.parametrize(
    ("sm", "code"),
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
def test_the_best_code_that_runs_serves(sm: str, code: Code | None):
    assert serving_code(sm, EVERYTHING) == code


@pytest.mark.parametrize(
    ("sm", "targets", "code"),
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
def test_a_kernel_runs_where_its_code_allows(sm: str, targets: list[tuple[int, Code]], code: Code | None):
    assert serving_code(sm, targets) == code


def test_operators_are_served_apart():
    """One operator may be exact where another is portable, PTX or missing."""
    operators: dict[str, list[tuple[int, Code]]] = {
        "fwd": [(90, "exact"), (80, "portable")],
        "bwd": [(90, "portable")],
        "decode": [(80, "ptx")],
        "append": [(120, "portable")],
    }
    assert serving("90", operators) == {"fwd": "exact", "bwd": "portable", "decode": "ptx", "append": None}
    assert serving("86", operators) == {"fwd": "portable", "bwd": None, "decode": "ptx", "append": None}
    assert serving(NEWER, operators) == {"fwd": None, "bwd": None, "decode": "ptx", "append": None}


def test_the_table_is_compiled_for_every_target():
    assert {compiled_for(variant) for variant in VARIANTS} == set(EVERYTHING)


def test_the_table_serves_each_operator_as_documented():
    operators = targets_by_operator(VARIANTS)
    assert list(operators) == list(dict.fromkeys(variant.op for variant in VARIANTS))
    assert {"fwd": "exact", "combine": "portable"}.items() <= serving("90", operators).items()
    assert {"fwd": "ptx", "combine": "ptx"}.items() <= serving(NEWER, operators).items()


def test_the_table_serves_every_gpu_of_the_matrix_and_is_compiled_for_no_other():
    """Operators that are not required may leave GPUs without a kernel; combine does not."""
    matrix = read_matrix()
    names = [sm.name for sm in matrix.sm]
    operators = targets_by_operator(VARIANTS)
    for op in {*matrix.release.required, "fwd", "combine"}:
        assert all(serving_code(name, operators[op]) for name in names), op
    for targets in operators.values():
        for number, code in targets:
            assert (NEWER if code == "ptx" else str(number)) in names
