"""The selector and the recipes: every value of every axis, and a first cell that is served."""

from __future__ import annotations

import re
from html import unescape

from ci.stages.coverage import exclusions, support_by_tag
from index_site.manifest import ExcludedCells, Manifest
from index_site.pages import render
from index_site.selector import selector
from index_site.snippets import recipes
from matrix.block import AXES, Block
from matrix.cell import Cell
from matrix.model import read_matrix
from matrix.planner import plan
from tests.site_kit import SUPPORT, manifest_wheel, proof, site_manifest

MATRIX = read_matrix()
PLAN = plan(MATRIX)
SUPPORTS = support_by_tag(MATRIX, PLAN)
REAL = SUPPORTS["manylinux_2_17_x86_64"]


def values(page: str, element: str) -> list[dict[str, str]]:
    """The attributes with a block's values, of each element with that start."""
    tags = re.findall(rf"<{element}[^>]*>", page)
    return [dict(re.findall(r'data-([a-z]+)="([^"]*)"', tag)) for tag in tags]


def test_every_cell_of_the_matrix_can_be_selected_and_the_page_answers_it() -> None:
    """What the script reads: the row of a served cell, or the first exclusion of another."""
    chosen = selector(list(SUPPORTS.values()), exclusions(MATRIX), [])
    assert chosen is not None
    offered = {axis.name: [option.value for option in axis.options] for axis in chosen.axes}
    assert {axis: set(found) for axis, found in offered.items()} == {
        axis: set(found) for axis, found in MATRIX.values.items()
    }
    assert [sorted(offered[axis]) for axis in AXES] == [sorted(MATRIX.values[axis]) for axis in AXES]
    assert offered["python"] == ["3.10", "3.11", "3.12", "3.13", "3.13t", "3.14", "3.14t"]
    assert offered["sm"] == ["80", "86", "89", "90", "100", "120", "newer"]

    wheels = tuple(
        manifest_wheel("0.1.0", channel="stable", platform=tag, support=support.key)
        for tag, support in SUPPORTS.items()
    )
    supports = {support.key: support for support in SUPPORTS.values()}
    manifest = Manifest(wheels=wheels, supports=supports, exclusions=exclusions(MATRIX))
    page = render(manifest)["index.html"].decode()
    rows, excluded = values(page, "tr data-"), values(page, "div data-reason")
    assert len(rows) > 1
    assert len(excluded) == len(MATRIX.exclude)

    def holds(row: dict[str, str], cell: Cell) -> bool:
        return all(getattr(cell, axis) in listed.split() for axis, listed in row.items())

    assert all(sum(holds(row, served.cell) for row in rows) == 1 for served in PLAN.served)
    for cell in PLAN.excluded:
        assert not any(holds(row, cell.cell) for row in rows)
        number = next(n for n, row in enumerate(excluded) if holds(row, cell.cell))
        assert MATRIX.exclude[number].reason == cell.reason


def test_the_first_cell_is_one_in_which_a_report_proves_the_wheel() -> None:
    ran = proof("x").model_copy(update={"torch": "2.11.0+cu128"})
    chosen = selector([REAL], (), [ran])
    assert chosen is not None
    assert chosen.cell == Cell("linux_x86_64", "3.14", "2.11", "cu128", "90")
    picked = {axis.name: [o.value for o in axis.options if o.selected] for axis in chosen.axes}
    assert picked == {axis: [getattr(chosen.cell, axis)] for axis in AXES}


def test_without_a_proof_the_first_cell_has_the_newest_versions() -> None:
    failed = proof("x", passed=False).model_copy(update={"torch": "2.9.0+cu130"})
    for proofs in ([], [failed], [proof("x").model_copy(update={"torch": "2.9.0a0"})]):
        chosen = selector([REAL], (), proofs)
        assert chosen is not None
        assert (chosen.cell.torch, chosen.cell.cuda, chosen.cell.python) == ("2.15", "cu132", "3.14")


def test_a_release_that_the_matrix_does_not_list_has_no_selector() -> None:
    assert selector([], exclusions(MATRIX), []) is None
    page = render(Manifest(wheels=(manifest_wheel("0.1.0", support=None),)))["index.html"].decode()
    assert "<select" not in page
    assert 'data-command="pip"' in page
    assert "data-recipe" not in page


def test_titles_are_for_readers() -> None:
    listed = SUPPORT.model_copy(
        update={"cells": (SUPPORT.cells[0].model_copy(update={"python": ("3.13", "3.13t")}),)}
    )
    excluded = ExcludedCells(cells=Block(platform=("win_amd64",), sm=("75",)), reason="it is too old for it")
    chosen = selector([listed], [excluded], [])
    assert chosen is not None
    titles = {axis.name: [option.title for option in axis.options] for axis in chosen.axes}
    assert titles == {
        "platform": ["Linux x86_64", "Windows amd64"],
        "python": ["3.13", "3.13t (free-threaded)"],
        "torch": ["2.9", "2.15"],
        "cuda": ["13.0"],
        "sm": ["sm_75", "A100, A30 (sm_80)", "H100, H200, GH200 (sm_90)", "GPUs of later architectures"],
    }


def test_recipes_hold_the_selected_cell_and_say_that_they_are_not_run() -> None:
    wheel = manifest_wheel("0.1.0", channel="stable")
    manifest = site_manifest(wheel, base_url="https://host.example/")
    page = render(manifest)["index.html"].decode()
    chosen = selector([SUPPORT], (), wheel.proofs)
    assert chosen is not None
    found = dict(re.findall(r'<code data-recipe="([^"]+)">(.*?)</code>', page, re.DOTALL))
    for recipe in recipes("https://host.example/", "stable", [wheel]):
        text = unescape(re.sub(r"<[^>]+>", "", found.pop(recipe.key)))
        assert text == recipe.text.format(**vars(chosen.cell))
        assert f"it needs {recipe.needs}." in page
    assert found == {}
    assert page.count('data-slot="torch"') == 2
