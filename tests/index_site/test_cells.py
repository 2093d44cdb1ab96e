"""The table of served cells: it lists what the matrix serves, and no combination that the matrix excludes."""

from __future__ import annotations

import itertools
import re
from html import unescape

import pytest

from ci.stages.coverage import exclusions, support_by_tag
from index_site.cells import EVERY_GPU, block_words, cell_rows
from index_site.manifest import Manifest
from index_site.pages import render
from matrix.block import Block
from matrix.cell import Cell
from matrix.model import Matrix, read_matrix
from matrix.planner import plan
from tests.site_kit import SUPPORT, manifest_wheel

MATRIX = read_matrix()
PLAN = plan(MATRIX)
BUDGET = 120_000


def manifest(matrix: Matrix, *tags: str) -> Manifest:
    """A release with one wheel for each tag, by default for each that the matrix lists."""
    supports = support_by_tag(matrix, plan(matrix))
    wheels = [
        manifest_wheel("0.1.0", channel="stable", platform=tag, support=supports[tag].key)
        for tag in sorted(tags or supports)
    ]
    used = {supports[tag].key: supports[tag] for tag in sorted(tags or supports)}
    return Manifest(wheels=tuple(wheels), supports=used, exclusions=exclusions(matrix))


def versions(text: str) -> list[str]:
    """``2.9-2.11, 2.13`` with an en dash -> 2.9, 2.10, 2.11, 2.13."""
    found = []
    for part in text.split(", "):
        first, _, last = part.partition("\N{EN DASH}")
        major, minor = first.split(".")
        found += [f"{major}.{n}" for n in range(int(minor), int(last.split(".")[1]) + 1)] if last else [first]
    return found


def shown_cells(page: str) -> list[Cell]:
    """Every combination of every row of the table, as a reader takes it."""
    table = re.search(r'<table class="cells">.*?</table>', page, re.DOTALL)
    assert table is not None
    listed = []
    for row in re.findall(r"<tr[^>]*>(<td.*?)</tr>", table[0]):
        torch, cuda, python, gpus, platform = (
            unescape(text) for text in re.findall(r"<td[^>]*>(.*?)</td>", row)
        )
        every = [sm.name for sm in MATRIX.sm]
        sms = every if gpus == EVERY_GPU else [re.sub(r"^sm_| GPUs$", "", name) for name in gpus.split(", ")]
        cudas = ["cu" + name.replace(".", "") for name in cuda.split(", ")]
        axes = (platform.split(", "), versions(python), versions(torch), cudas, sms)
        listed += [Cell(*values) for values in itertools.product(*axes)]
    return listed


def test_the_page_shows_every_served_cell_once_and_no_excluded_one() -> None:
    page = render(manifest(MATRIX))["index.html"].decode()
    shown = shown_cells(page)
    assert len(shown) == len(set(shown))
    assert set(shown) == {row.cell for row in PLAN.served}
    assert not set(shown) & {row.cell for row in PLAN.excluded}


def test_wheels_that_serve_the_same_on_two_platforms_share_their_rows() -> None:
    page = render(manifest(MATRIX))["index.html"].decode()
    rows = len(re.findall('data-label="PyTorch"', page))
    alone = render(manifest(MATRIX, "manylinux_2_17_x86_64"))["index.html"].decode()
    assert rows == len(re.findall('data-label="PyTorch"', alone)) < 10


def test_the_page_gives_every_reason_and_stays_small() -> None:
    page = render(manifest(MATRIX))["index.html"]
    for rule in MATRIX.exclude:
        assert rule.reason in unescape(page.decode())
    assert len(page) < BUDGET


@pytest.mark.parametrize(
    ("block", "words"),
    [
        (Block(python=("3.10",), torch=("2.15",)), "Python 3.10, torch 2.15"),
        (Block(cuda=("cu132",), torch=("2.9", "2.10", "2.11")), "torch 2.9\N{EN DASH}2.11, CUDA 13.2"),
        (Block(torch=("2.9", "2.10", "2.12")), "torch 2.9, 2.10, 2.12"),
        (Block(platform=("win_amd64",)), "win_amd64"),
        (Block(cuda=("cu126",), sm=("100", "newer")), "CUDA 12.6, sm_100 or newer GPUs"),
    ],
)
def test_a_block_in_words_leaves_out_what_it_does_not_restrict(block: Block, words: str) -> None:
    assert block_words(block) == words


def test_a_row_of_some_gpus_names_them() -> None:
    some = SUPPORT.cells[0].model_copy(update={"sm": ("80", "90"), "python": ("3.13t",)})
    every, named = cell_rows([SUPPORT.model_copy(update={"cells": (SUPPORT.cells[0], some)})])
    assert (every.gpus, named.gpus) == (EVERY_GPU, "sm_80, sm_90")
    assert (every.torch, every.cuda, every.python) == ("2.9, 2.15", "13.0", "3.11, 3.13")
    assert named.python == "3.13t"
