from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matrix.block import AXES, Block, blocks_of
from matrix.cell import Cell
from matrix.model import read_matrix
from matrix.planner import plan

VALUES = {
    "platform": ("linux_x86_64", "win_amd64"),
    "torch": ("2.9", "2.10", "2.11"),
    "cuda": ("cu128", "cu130"),
    "python": ("3.9", "3.10"),
    "sm": ("90", "100", "newer"),
}


def cells_of(block: Block) -> list[Cell]:
    axes = {axis: getattr(block, axis) for axis in AXES}
    return [
        Cell(**dict(zip(axes, combination, strict=True))) for combination in itertools.product(*axes.values())
    ]


everything = cells_of(Block(**VALUES))


@given(st.sets(st.sampled_from(everything)))
def test_blocks_hold_exactly_the_cells_each_once(cells: set[Cell]):
    blocks = blocks_of(cells, VALUES)
    listed = [cell for block in blocks for cell in cells_of(block)]
    assert len(listed) == len(set(listed))
    assert set(listed) == cells
    for cell in everything:
        assert any(cell in block for block in blocks) == (cell in cells)


@given(st.sets(st.sampled_from(everything)), st.randoms(use_true_random=False))
def test_blocks_depend_on_the_set_of_cells_alone_and_list_values_in_order(cells: set[Cell], random: object):
    shuffled = list(cells)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    blocks = blocks_of(cells, VALUES)
    assert blocks_of(shuffled, VALUES) == blocks
    for block, (axis, values) in itertools.product(blocks, VALUES.items()):
        assert list(getattr(block, axis)) == [value for value in values if value in getattr(block, axis)]


def test_a_full_product_is_one_block():
    assert blocks_of(everything, VALUES) == (Block(**VALUES),)


def test_an_axis_without_values_stands_for_all():
    cell = Cell("linux_x86_64", "3.10", "2.11", "cu130", "90")
    assert cell in Block()
    assert cell in Block(torch=("2.10", "2.11"), python=("3.10",))
    assert cell not in Block(torch=("2.10",), python=("3.10",))


@pytest.mark.parametrize("platform", ["linux_x86_64", "linux_aarch64"])
def test_the_matrix_is_a_few_blocks(platform: str):
    matrix = read_matrix()
    planned = plan(matrix)
    cells = [row.cell for row in planned.served if row.cell.platform == platform]
    blocks = blocks_of(cells, matrix.values)
    assert len(blocks) <= 10
    assert {cell for block in blocks for cell in cells_of(block)} == set(cells)


def test_an_exclusion_is_a_block_of_the_torches_that_its_specifier_matches():
    """Specifiers compare versions: as texts, 2.9 would be newer than 2.12."""
    matrix = read_matrix()
    blocks = [rule.block(matrix.axes.torch) for rule in matrix.exclude]
    assert Block(python=("3.10",), torch=("2.15",)) in blocks
    assert Block(cuda=("cu132",), torch=("2.9", "2.10", "2.11")) in blocks
    assert Block(platform=("win_amd64",)) in blocks
    assert matrix.exclude[2].block(["2.9"]) is None
