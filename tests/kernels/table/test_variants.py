from __future__ import annotations

import re
from dataclasses import replace

import pytest

from kernels.build.compile import DEVICE_DIR
from kernels.errors import UnknownDTypeError, UnknownVariantError
from kernels.table import CANDIDATES, VARIANTS, Variant, select, variant_named
from kernels.table.families import combine, fwd_portable, fwd_sm90
from kernels.table.fwd import FwdTail
from kernels.table.targets import PORTABLE_TARGETS
from kernels.table.variant import Tail

MULTIPROCESSOR_EXTRA = 1024  # of a multiprocessor, besides what one block may have
BLOCK_EXTRA = 1024 + 128  # of each block: reserved by the system, and for the tile of the portable kernel
BY_NAME = {target.name: target for target in PORTABLE_TARGETS}
FWD_PORTABLE = fwd_portable.FAMILY.variants


def target_name(variant: Variant) -> str:
    return variant.name.split("_")[2 if variant.op == "fwd" else 1]


def test_names_are_unique_and_fit_the_pack():
    names = [variant.name for variant in VARIANTS]
    assert len(set(names)) == len(names)
    assert max(map(len, names)) < 64


def test_every_variant_names_a_source_and_itself_as_the_symbol():
    for variant in VARIANTS:
        assert (DEVICE_DIR / variant.source).is_file()
        assert dict(variant.macros)["FA3_KERNEL"] == variant.name


def test_every_source_of_a_kernel_has_variants():
    sources = {path.relative_to(DEVICE_DIR).as_posix() for path in DEVICE_DIR.rglob("*.cu")}
    assert {variant.source for variant in VARIANTS} == sources


def test_every_target_serves_every_head_dimension_in_both_dtypes():
    served = {(target_name(v), v.dtype_in, v.dtype_out, v.head_dim, v.head_dim_v) for v in FWD_PORTABLE}
    head_dims = {(64, 64), (96, 96), (128, 128), (192, 128), (192, 192), (256, 256), (64, 512)}
    wanted = {
        (name, dtype, dtype, *dims) for name in BY_NAME for dtype in ("fp16", "bf16") for dims in head_dims
    }
    assert served == wanted
    combines = [variant for variant in VARIANTS if variant.op == "combine"]
    assert {target_name(variant) for variant in combines} == set(BY_NAME)
    assert {(variant.dtype_in, variant.dtype_out) for variant in combines} == {("fp32", "any")}


@pytest.mark.parametrize("variant", FWD_PORTABLE, ids=lambda variant: variant.name)
def test_the_blocks_of_a_portable_variant_fit_its_multiprocessor(variant: Variant):
    target = BY_NAME[target_name(variant)]
    assert (variant.sm, variant.code) == (target.sm, target.code)
    assert variant.smem_bytes + BLOCK_EXTRA - 1024 <= target.smem_bytes
    all_blocks = variant.blocks_per_sm * (variant.smem_bytes + BLOCK_EXTRA)
    assert all_blocks <= target.smem_bytes + MULTIPROCESSOR_EXTRA
    assert variant.blocks_per_sm * variant.threads <= 1536
    tail = variant.tail
    assert isinstance(tail, FwdTail)
    assert variant.head_dim_v % tail.value_slices == 0
    # A portable kernel computes its addresses: no tensor maps, no queue, any mask.
    assert (tail.box_rows_q, tail.box_rows_kv, tail.box_rows_out) == (0, 0, 0)
    assert (tail.dynamic, variant.mask) == (False, "any")


def test_variants_of_one_tile_differ_in_target_and_dtype_alone():
    first = next(variant for variant in FWD_PORTABLE if variant.name == "fwd_portable_sm86_fp16_d64")
    other = next(variant for variant in FWD_PORTABLE if variant.name == "fwd_portable_sm89_fp16_d64")
    renamed = tuple((name, value.replace("sm86", "sm89")) for name, value in first.macros)
    assert replace(first, name=other.name, sm="89", macros=renamed) == other


def test_all_variants_of_an_operator_have_the_same_kind_of_tail():
    kinds: dict[str, set[type[Tail]]] = {}
    for variant in (*VARIANTS, *CANDIDATES):
        kinds.setdefault(variant.op, set()).add(type(variant.tail))
    assert all(len(kind) == 1 for kind in kinds.values()), kinds
    assert (kinds["fwd"], kinds["combine"]) == ({FwdTail}, {Tail})


def test_the_words_of_a_tail_are_its_fields_in_order():
    tail = FwdTail(
        dynamic=True,
        box_rows_q=192,
        box_rows_kv=128,
        box_rows_out=16,
        min_seqlen_q=2048,
        value_slices=2,
        packs_gqa=False,
    )
    assert tail.words() == (1, 192, 128, 16, 2048, 2, 0)
    assert all(type(word) is int for word in tail.words())
    assert Tail().words() == ()


def test_the_table_gathers_every_family_in_the_order_of_their_names():
    """Whatever other operators there are, before or between these."""
    families = (combine.FAMILY, fwd_portable.FAMILY, fwd_sm90.FAMILY)
    ops = ("combine", "fwd")
    listed = [variant for variant in VARIANTS if variant.op in ops]
    assert listed == [variant for family in families for variant in family.variants]
    assert [variant.op for variant in combine.FAMILY.variants] == ["combine"] * len(PORTABLE_TARGETS)
    candidates = [variant for variant in CANDIDATES if variant.op in ops]
    assert candidates == [*fwd_portable.FAMILY.candidates, *fwd_sm90.FAMILY.candidates]


def test_select_compares_a_short_pattern_with_the_beginnings_of_names():
    with pytest.raises(UnknownVariantError, match=r"got 'fvd_\*', which .*; nearest: fwd_"):
        select(["fvd_*"])


@pytest.mark.parametrize("field", ["dtype_in", "dtype_out"])
def test_a_variant_of_an_unknown_dtype_is_an_error(field: str):
    message = "dtype: got 'fp8', expected one of fp16, bf16, fp32"
    with pytest.raises(UnknownDTypeError, match=re.escape(message)):
        replace(VARIANTS[0], **{field: "fp8"})


def test_select_takes_patterns_in_table_order():
    chosen = select(["fwd_portable_sm80_*_d64", "combine_*"])
    assert [v.name for v in chosen[-2:]] == ["fwd_portable_sm80_fp16_d64", "fwd_portable_sm80_bf16_d64"]
    assert {variant.op for variant in chosen[:-2]} == {"combine"}
    assert len(chosen) == 2 + len(PORTABLE_TARGETS)
    assert select() == VARIANTS


def test_select_names_the_nearest_variants_of_a_pattern_without_any():
    message = "variant: got 'combine_sm81', which matches no variant of the table; nearest: combine_sm8"
    with pytest.raises(UnknownVariantError, match=re.escape(message)):
        select(["combine_sm81"])


def test_a_name_is_found_in_the_table_and_among_the_candidates():
    for known in (VARIANTS[0], CANDIDATES[0]):
        assert variant_named(known.name) == known
    with pytest.raises(UnknownVariantError, match="'combine_sm81'"):
        variant_named("combine_sm81")
