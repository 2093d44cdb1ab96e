from __future__ import annotations

import itertools

import pytest

from ci.errors import UnknownCell, UnknownSm, UnknownToolkit
from ci.project import ROOT
from ci.proof.evidence import read_archive
from ci.stages.plan import Selection, named_sm, plan_document, proven_by, select_artefacts, select_cells
from kernels.table import VARIANTS
from matrix.cell import Artefact, Cell
from matrix.model import read_matrix
from matrix.planner import plan
from tests.site_kit import proof as manifest_proof

MATRIX = read_matrix()
WHOLE = plan(MATRIX)
FORWARDS = plan(MATRIX, table=[row for row in VARIANTS if row.op in ("fwd", "combine")])


def test_nothing_selected_is_everything():
    assert select_cells(WHOLE, MATRIX, Selection()) == WHOLE


def test_patterns_narrow_the_cells_and_their_artefacts():
    chosen = select_cells(WHOLE, MATRIX, Selection(["linux_x86_64-py312-torch2.11-*-sm90"]))
    assert {row.cell.cuda for row in chosen.served} == {"cu126", "cu128", "cu130"}
    assert {row.cell.cuda for row in chosen.excluded} == {"cu132"}
    assert {artefact.platform for artefact in chosen.artefacts} == {"linux_x86_64"}


def test_a_toolkit_narrows_the_artefacts():
    chosen = select_cells(WHOLE, MATRIX, Selection(toolkit="13.0"))
    assert {artefact.toolkit for artefact in chosen.artefacts} == {"13.0"}


@pytest.mark.parametrize("name", ["90", "90a"])
def test_an_sm_is_found_by_both_its_names(name: str):
    chosen = select_cells(WHOLE, MATRIX, Selection(sm=name)).served
    assert chosen == tuple(row for row in WHOLE.served if row.cell.sm == "90")
    assert chosen


def test_the_document_accounts_for_every_cell():
    document = plan_document(WHOLE, WHOLE, MATRIX, [])
    cells = [Cell.parse(row["cell"]) for row in document["cells"] + document["exclusions"]]
    assert set(cells) == {row.cell for row in WHOLE.served} | {row.cell for row in WHOLE.excluded}
    assert all(row["reason"] for row in document["exclusions"])
    released = [row for row in document["artefacts"] if row["released"]]
    assert {row["artefact"]: row["proof"] for row in released} == {
        "linux_x86_64-cuda12.8": "gpu",
        "linux_aarch64-cuda12.8": "emulation",
    }
    assert sum(row["cells"] for row in released) == len(document["cells"]) >= 1500


@pytest.mark.parametrize(
    ("emulated", "cell", "proof"),
    [
        (set(), "linux_x86_64-py312-torch2.11-cu130-sm90", "validated"),
        (set(), "linux_x86_64-py312-torch2.11-cu130-sm80", "built"),
        ({"linux_aarch64"}, "linux_aarch64-py312-torch2.11-cu130-sm90", "emulated"),
        ({"linux_aarch64"}, "linux_aarch64-py312-torch2.11-cu130-sm80", "built"),
        (set(), "linux_aarch64-py312-torch2.11-cu130-sm90", "built"),
    ],
)
def test_each_cell_says_how_far_its_proof_goes(emulated: set[str], cell: str, proof: str):
    """An emulation proves no kernel: a GPU must have run those for the SM."""
    ran = {"fwd": ("exact", "portable"), "combine": ("portable",)}
    validated = manifest_proof("x").model_copy(update={"sm": "90", "proven": ran})
    document = plan_document(FORWARDS, FORWARDS, MATRIX, [validated], emulated)
    assert {row["cell"]: row["proof"] for row in document["cells"]}[cell] == proof
    nothing = plan_document(FORWARDS, FORWARDS, MATRIX, [], emulated)
    assert {row["proof"] for row in nothing["cells"]} == {"built"}


def test_the_reports_of_the_tree_prove_what_they_ran():
    proofs, emulated = proven_by(read_archive(ROOT / "validation", print), MATRIX)
    assert emulated == {"linux_aarch64"}
    assert "NVIDIA H200" in {proof.gpu for proof in proofs}


def test_a_narrowed_document_marks_what_is_released():
    chosen = select_cells(WHOLE, MATRIX, Selection(["linux_x86_64-py310-torch2.15-*"]))
    assert chosen.served == ()
    released = [
        row["artefact"] for row in plan_document(chosen, WHOLE, MATRIX, [])["artefacts"] if row["released"]
    ]
    assert released == ["linux_x86_64-cuda12.8"]


def test_the_document_says_what_serves_each_gpu_and_what_was_proven():
    """A report proves the kernels on the SM of its GPU; for other SMs it proves the source only."""
    proven = manifest_proof("x").model_copy(
        update={"sm": "90", "proven": {"fwd": ("exact", "portable"), "combine": ("portable",)}}
    )
    rows = {row["sm"]: row for row in plan_document(FORWARDS, FORWARDS, MATRIX, [proven])["gpus"]}
    assert list(rows) == [sm.name for sm in MATRIX.sm]
    assert rows["90"]["status"] == "validated on NVIDIA H200 with torch 2.13.0+cu130"
    source = "built, not yet run on this GPU (same source passed on NVIDIA H200)"
    assert rows["80"]["status"] == rows["120"]["status"] == source
    assert rows["newer"]["status"] == "built, not yet run on a GPU"
    assert [sm for sm, row in rows.items() if row["proven"]] == ["90"]
    assert rows["90"]["operators"] == {"fwd": "exact", "combine": "portable"}
    assert rows["90"]["kernels"] == "forward: exact sm_90 kernels; combine: portable kernels"
    document = plan_document(FORWARDS, FORWARDS, MATRIX, [])
    cells = {row["cell"]: row["operators"] for row in document["cells"]}
    assert cells["linux_x86_64-py312-torch2.11-cu130-sm90"] == {"fwd": "exact", "combine": "portable"}
    assert cells["linux_x86_64-py312-torch2.11-cu130-smnewer"] == {"fwd": "ptx", "combine": "ptx"}


def test_an_operator_that_no_report_proves_leaves_its_gpu_unproven():
    forward = manifest_proof("x").model_copy(update={"sm": "90", "proven": {"fwd": ("exact", "portable")}})
    rows = {row["sm"]: row for row in plan_document(FORWARDS, FORWARDS, MATRIX, [forward])["gpus"]}
    assert not rows["90"]["proven"]
    assert rows["90"]["status"] == (
        "forward: validated on NVIDIA H200 with torch 2.13.0+cu130; combine: built, not yet run on a GPU"
    )


def test_the_blocks_of_the_document_hold_the_cells_that_it_lists():
    document = plan_document(WHOLE, WHOLE, MATRIX, [])
    axes = ("platform", "python", "torch", "cuda", "sm")
    cells = [
        (str(Cell(*values)), block["artefact"])
        for block in document["served"]
        for values in itertools.product(*(block[axis] for axis in axes))
    ]
    assert sorted(cells) == sorted((row["cell"], row["artefact"]) for row in document["cells"])
    assert len(document["served"]) < 20


def test_artefacts_are_chosen_by_name_and_toolkit():
    assert select_artefacts(WHOLE, MATRIX, Selection(["linux_aarch64-*"])) == (
        Artefact("linux_aarch64", "12.8"),
        Artefact("linux_aarch64", "13.0"),
    )
    assert select_artefacts(WHOLE, MATRIX, Selection(["linux_aarch64-*"], toolkit="13.0")) == (
        Artefact("linux_aarch64", "13.0"),
    )


def test_errors_about_unknown_names_list_the_nearest():
    with pytest.raises(
        UnknownCell, match=r"no cell matches 'linux_x86_64-py312-torch2\.11-cu130-sm75'; .*-sm8"
    ):
        select_cells(WHOLE, MATRIX, Selection(["linux_x86_64-py312-torch2.11-cu130-sm75"]))
    with pytest.raises(
        UnknownCell, match=r"no artefact matches 'linux_x86-cuda12\.8'; .*linux_x86_64-cuda12\.8"
    ):
        select_artefacts(WHOLE, MATRIX, Selection(["linux_x86-cuda12.8"]))
    with pytest.raises(UnknownToolkit, match=r"no toolkit is called '13'; .*13\.0"):
        select_artefacts(WHOLE, MATRIX, Selection(toolkit="13"))
    with pytest.raises(UnknownSm, match="no SM is called '70a'"):
        named_sm(MATRIX, "70a")
