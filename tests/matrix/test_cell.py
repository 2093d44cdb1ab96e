from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matrix.cell import Artefact, Cell
from matrix.errors import CellError

numbers = st.integers(min_value=0, max_value=999)
platforms = st.from_regex(r"[a-z0-9_]+", fullmatch=True, alphabet=st.characters(max_codepoint=127))
pythons = st.builds("{}.{}{}".format, st.integers(1, 9), numbers, st.sampled_from(["", "t"]))
versions = st.builds("{}.{}".format, st.integers(1, 99), numbers)
cudas = st.builds("cu{}".format, st.integers(min_value=10, max_value=9999))
sms = st.one_of(st.builds(str, st.integers(min_value=10, max_value=999)), st.just("newer"))
cells = st.builds(Cell, platforms, pythons, versions, cudas, sms)
artefacts = st.builds(Artefact, platforms, versions)


@given(cells)
def test_a_cell_is_read_back_from_its_name(cell: Cell):
    assert Cell.parse(str(cell)) == cell


@given(artefacts)
def test_an_artefact_is_read_back_from_its_name(artefact: Artefact):
    assert Artefact.parse(str(artefact)) == artefact


@given(cells, cells)
def test_different_cells_have_different_names(one: Cell, other: Cell):
    assert (str(one) == str(other)) == (one == other)


@given(cells, st.data())
def test_a_text_that_parses_prints_the_same(cell: Cell, data: st.DataObject):
    """A name with one edit is refused, or is another name, exactly."""
    text = str(cell)
    at = data.draw(st.integers(0, len(text)))
    edited = text[:at] + data.draw(st.characters()) + text[data.draw(st.integers(at, len(text))) :]
    try:
        parsed = Cell.parse(edited)
    except CellError:
        return
    assert str(parsed) == edited


def test_the_name_of_a_cell_is_the_documented_one():
    assert (
        str(Cell("linux_x86_64", "3.12", "2.11", "cu130", "90")) == "linux_x86_64-py312-torch2.11-cu130-sm90"
    )
    assert (
        str(Cell("linux_aarch64", "3.13t", "2.9", "cu128", "100"))
        == "linux_aarch64-py313t-torch2.9-cu128-sm100"
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "linux_x86_64",
        "linux_x86_64-py312-torch2.11-cu130",
        "linux_x86_64-py312-torch2.11-cu130-sm90-more",
        "linux_x86_64-py3-torch2.11-cu130-sm90",
        "linux_x86_64-py312-torch2-cu130-sm90",
        "linux_x86_64-py312-torch2.011-cu130-sm90",
        "linux_x86_64-py312-torch2.11-cpu-sm90",
        "linux_x86_64-py312-torch2.11-cu130-sm90a",
        "linux_x86_64-py312-torch2.11-cu130-smold",
        "Linux_x86_64-py312-torch2.11-cu130-sm90",
        "linux_x86_64-py312-torch2.11-cu130-sm90\n",
        "linux_x86_64-py٣12-torch2.11-cu130-sm90",
    ],
)
def test_other_texts_are_refused_as_cells(text: str):
    with pytest.raises(CellError, match=r"^cell: should look like linux_x86_64-py312-.*, got "):
        Cell.parse(text)


@pytest.mark.parametrize(
    "text", ["", "linux_x86_64", "linux_x86_64-cuda12", "linux_x86_64-cuda12.8.1", "-cuda12.8"]
)
def test_other_texts_are_refused_as_artefacts(text: str):
    with pytest.raises(CellError, match=r"^artefact: should look like linux_x86_64-cuda12\.8, got "):
        Artefact.parse(text)
