from __future__ import annotations

import re
from dataclasses import replace

import pytest

from kernels.build.compile import DEVICE_DIR
from kernels.errors import UnknownVariantError
from kernels.table import VARIANTS, Variant, select
from kernels.table.fwd_portable import FWD_PORTABLE
from kernels.table.targets import PORTABLE_TARGETS

MULTIPROCESSOR_EXTRA = 1024  # that it has besides what one block may take
BLOCK_EXTRA = 1024 + 128  # the system's, and what the portable kernel keeps of its tile
BY_NAME = {target.name: target for target in PORTABLE_TARGETS}


def target_name(variant: Variant) -> str:
    return variant.name.split("_")[2 if variant.op == "fwd" else 1]


def test_names_are_unique_and_fit_the_pack():
    names = [variant.name for variant in VARIANTS]
    assert len(set(names)) == len(names)
    assert max(map(len, names)) < 64


def test_every_row_names_a_source_and_itself_as_the_symbol():
    for variant in VARIANTS:
        assert (DEVICE_DIR / variant.source).is_file()
        assert dict(variant.macros)["FA3_KERNEL"] == variant.name


def test_every_target_serves_every_head_dimension_in_both_dtypes():
    served = {(target_name(row), row.dtype, row.head_dim, row.head_dim_v) for row in FWD_PORTABLE}
    head_dims = {(64, 64), (96, 96), (128, 128), (192, 128), (192, 192), (256, 256), (64, 512)}
    wanted = {(name, dtype, *dims) for name in BY_NAME for dtype in ("fp16", "bf16") for dims in head_dims}
    assert served == wanted
    assert {target_name(row) for row in VARIANTS if row.op == "combine"} == set(BY_NAME)


@pytest.mark.parametrize("row", FWD_PORTABLE, ids=lambda row: row.name)
def test_the_blocks_of_a_portable_row_fit_its_multiprocessor(row: Variant):
    target = BY_NAME[target_name(row)]
    assert (row.sm, row.code) == (target.sm, target.code)
    assert row.smem_bytes + BLOCK_EXTRA - 1024 <= target.smem_bytes
    assert row.blocks_per_sm * (row.smem_bytes + BLOCK_EXTRA) <= target.smem_bytes + MULTIPROCESSOR_EXTRA
    assert row.blocks_per_sm * row.threads <= 1536
    assert row.head_dim_v % row.value_slices == 0
    # A portable kernel computes its addresses: no tensor maps, no queue, any mask.
    assert (row.box_rows, row.dynamic, row.mask) == ((0, 0, 0), False, "any")


def test_rows_of_one_tile_differ_in_target_and_dtype_alone():
    first = next(row for row in FWD_PORTABLE if row.name == "fwd_portable_sm86_fp16_d64")
    other = next(row for row in FWD_PORTABLE if row.name == "fwd_portable_sm89_fp16_d64")
    renamed = tuple((name, value.replace("sm86", "sm89")) for name, value in first.macros)
    assert replace(first, name=other.name, sm="89", macros=renamed) == other


def test_select_takes_patterns_in_table_order():
    chosen = select(["combine_*", "fwd_portable_sm80_*_d64"])
    assert [row.name for row in chosen[:2]] == ["fwd_portable_sm80_fp16_d64", "fwd_portable_sm80_bf16_d64"]
    assert {row.op for row in chosen[2:]} == {"combine"}
    assert len(chosen) == 2 + len(PORTABLE_TARGETS)
    assert select() == VARIANTS


def test_select_names_the_nearest_rows_of_a_pattern_without_any():
    message = "variant: got 'combine_sm81', which matches no row of the table; nearest: combine_sm8"
    with pytest.raises(UnknownVariantError, match=re.escape(message)):
        select(["combine_sm81"])
