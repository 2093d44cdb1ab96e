from __future__ import annotations

import pytest

from kernels.table import VARIANTS
from matrix.cell import Artefact, Cell
from matrix.errors import MatrixError
from matrix.model import read_matrix
from matrix.planner import plan

FORWARDS = tuple(row for row in VARIANTS if row.op in ("fwd", "combine"))  # whatever else there is


def test_every_cell_is_planned_exactly_once():
    matrix = read_matrix()
    planned = plan(matrix)
    cells = [row.cell for row in planned.served] + [row.cell for row in planned.excluded]
    axes = (matrix.platform, matrix.axes.python, matrix.axes.torch, matrix.axes.cuda, matrix.sm)
    size = 1
    for axis in axes:
        size *= len(axis)
    assert len(cells) == len(set(cells)) == size


def test_every_served_cell_has_an_artefact_of_its_platform():
    planned = plan(read_matrix())
    assert planned.served
    for row in planned.served:
        assert row.artefact in planned.artefacts
        assert row.artefact.platform == row.cell.platform


def test_one_artefact_serves_all_cells_of_a_platform():
    planned = plan(read_matrix())
    platforms = ("linux_x86_64", "linux_aarch64")
    assert {row.artefact for row in planned.served} == {Artefact(name, "12.8") for name in platforms}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("win_amd64-py312-torch2.11-cu130-sm90", "Windows"),
        ("linux_x86_64-py310-torch2.15-cu130-sm90", "cp310"),
        ("linux_x86_64-py313t-torch2.13-cu130-sm90", "cp313t"),
        ("linux_x86_64-py312-torch2.15-cu126-sm90", "CUDA 12.6"),
        ("linux_x86_64-py312-torch2.12-cu128-sm90", "CUDA 12.8"),
        ("linux_x86_64-py312-torch2.11-cu132-sm90", "CUDA 13.2"),
        ("linux_x86_64-py312-torch2.11-cu126-sm100", "Blackwell"),
        ("linux_x86_64-py312-torch2.11-cu126-smnewer", "Blackwell"),
    ],
)
def test_cells_that_never_existed_are_excluded_with_the_reason(name: str, reason: str):
    excluded = {row.cell: row.reason for row in plan(read_matrix()).excluded}
    assert reason in excluded[Cell.parse(name)]


def test_versions_are_compared_as_versions():
    """As texts, 2.9 would be newer than 2.12."""
    served = {row.cell for row in plan(read_matrix()).served}
    assert Cell.parse("linux_x86_64-py313t-torch2.9-cu128-sm90") in served
    assert Cell.parse("linux_x86_64-py313t-torch2.12-cu130-sm90") in served


def test_a_cell_that_nothing_serves_or_excludes_is_an_error():
    matrix = read_matrix()
    silent = matrix.model_copy(update={"exclude": matrix.exclude[1:]})
    with pytest.raises(
        MatrixError, match=r"win_amd64-.*: no artefact serves this cell, and no exclusion gives a reason"
    ):
        plan(silent)


@pytest.mark.parametrize(
    ("sm", "forward", "combine"),
    [
        ("80", "portable", "portable"),
        ("90", "exact", "portable"),
        ("120", "portable", "portable"),
        ("newer", "ptx", "ptx"),
    ],
)
def test_the_plan_gives_the_code_of_each_operator_on_each_sm(sm: str, forward: str, combine: str):
    planned = plan(read_matrix())
    assert Cell.parse(f"linux_x86_64-py312-torch2.11-cu130-sm{sm}") in {row.cell for row in planned.served}
    assert {"fwd": forward, "combine": combine}.items() <= planned.serving[sm].items()
    assert plan(read_matrix(), table=FORWARDS).serving[sm] == {"fwd": forward, "combine": combine}
    assert next(iter(planned.serving[sm])) == "fwd", "required operators come first"


def test_a_gpu_without_a_kernel_of_a_required_operator_is_an_error():
    table = [row for row in VARIANTS if row.sm == "90a" or row.op == "combine"]
    with pytest.raises(
        MatrixError,
        match=r"-sm80: the table has no kernel of the required operator 'fwd' for this GPU, and no exclusion",
    ):
        plan(read_matrix(), table=table)


def test_an_operator_that_is_not_required_may_be_missing():
    """A cell with forward kernels only is served, and the plan shows that combine is missing."""
    matrix = read_matrix()
    table = [row for row in FORWARDS if row.op == "fwd" or row.sm == "90"]
    planned = plan(matrix, table=table)
    assert planned.served == plan(matrix).served
    assert planned.serving["80"] == {"fwd": "portable", "combine": None}
    strict = matrix.release.model_copy(update={"required": ("fwd", "combine")})
    with pytest.raises(
        MatrixError, match=r"-sm80: the table has no kernel of the required operator 'combine'"
    ):
        plan(matrix.model_copy(update={"release": strict}), table=table)


def test_a_required_operator_that_the_table_lacks_is_an_error():
    matrix = read_matrix()
    unknown = matrix.release.model_copy(update={"required": ("fwd", "forward")})
    with pytest.raises(
        MatrixError,
        match=r"^release\.required\[1\]: should be an operator of the kernel table \('combine', 'fwd'\)",
    ):
        plan(matrix.model_copy(update={"release": unknown}), table=FORWARDS)


def test_a_toolkit_serves_no_older_cuda():
    """A 13.0 cubin does not load on a driver of CUDA 12."""
    matrix = read_matrix()
    newer = matrix.release.model_copy(update={"toolkit": "13.0"})
    with pytest.raises(MatrixError, match=r"-cu126-.*no artefact serves"):
        plan(matrix.model_copy(update={"release": newer}))


def test_an_exclusion_that_excludes_nothing_is_an_error():
    matrix = read_matrix()
    useless = matrix.exclude[2].model_copy(update={"torch": ">=3"})
    with pytest.raises(MatrixError, match=r"exclude\[7\]: excludes no cell"):
        plan(matrix.model_copy(update={"exclude": (*matrix.exclude, useless)}))
