"""Sources of the portable forward kernels on the CPU, against float64; mutations of them fail."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from kernels.table.families.fwd_portable import FAMILY
from tests.kernels.emulator.attention import Attention, Case
from tests.kernels.emulator.emulator import Change, EmulationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.kernels.emulator.emulator import Kernel

# Every head dimension, both dtypes, one and two stages, four and eight warps, Q in registers and not.
VARIANTS = (
    "fwd_portable_sm80_fp16_d64",
    "fwd_portable_sm86_bf16_d64",
    "fwd_portable_sm86_fp16_d96",
    "fwd_portable_sm80_bf16_d128",
    "fwd_portable_sm90_fp16_d128",
    "fwd_portable_sm89_bf16_d192x128",
    "fwd_portable_sm80_fp16_d192",
    "fwd_portable_sm120_bf16_d256",
    "fwd_portable_sm80_bf16_d64x512",
)
CASES = {
    "whole tile": Case((128,), (128,)),
    "one row": Case((1,), (1,)),
    "no keys": Case((65, 3), (0, 40), sink=True),
    "no keys at all": Case((5,), (0,)),
    "more queries than keys": Case((200,), (70,), causal=True),
    "causal": Case((130, 128), (197, 300), causal=True),
    "window": Case((150,), (300,), window=(40, 20)),
    "diagonal": Case((150,), (160,), window=(0, 0)),
    "chunks": Case((150,), (310,), window=(-1, 30), chunk=37),
    "softcap": Case((140,), (140,), causal=True, softcap=5.0, scale=0.5),
    "sink": Case((70,), (210,), causal=True, sink=True, heads=4),
    "negative scale": Case((100,), (190,), scale=-0.3),
    "scale 0": Case((100,), (190,), scale=0.0, causal=True),
    "large scores": Case((60,), (190,), scale=4.0),
    "huge scores": Case((60, 3), (190, 70), scale=3e9, causal=True),
    "huge scores of lone rows": Case((1,) * 6, (190,) * 6, scale=3e9),
    "huge negative scores": Case((60,), (190,), scale=-3e9, window=(90, 0)),
    "keys that no query sees": Case((5, 130), (300, 290), window=(70, 0)),
    "chunks that no query sees": Case((9,), (300,), chunk=120, form="packed"),
    "pages that no query sees": Case((3, 1), (250, 300), form="paged", page_size=16, window=(40, 0)),
    "grouped heads": Case((33,), (190,), heads=6, causal=True, pack=True, sink=True),
    "lengths": Case((150, 0, 33), (190, 77, 0), causal=True),
    "packed": Case((5, 0, 130, 64, 1), (9, 20, 0, 200, 64), form="packed", causal=True),
    "many sequences": Case((1,) * 40, tuple(range(0, 80, 2)), form="packed", heads=1, heads_kv=1),
    "pages of a row": Case((3, 70, 1), (150, 70, 0), form="paged", page_size=1, causal=True),
    "pages": Case((3, 70), (150, 71), form="paged", page_size=48, heads=4, pack=True, window=(30, 5)),
    "fewer columns": Case((40,), (70,), head_dim=8, head_dim_v=24),
    "odd columns": Case((40,), (70,), head_dim=33, head_dim_v=59),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("name", VARIANTS)
def test_named_cases(emulated: Callable[..., Kernel], name: str, case: Case):
    attention = Attention(emulated(name).variant, case)
    attention.check(attention.run(emulated(name)))


def sampled(draw: random.Random, head_dim: int, head_dim_v: int) -> Case:
    form = draw.choice(("dense", "packed", "paged"))
    sequences = draw.randint(1, 3)
    heads_kv = draw.choice((1, 2))
    group = draw.choice((1, 2, 3, 8))
    return Case(
        lengths_q=tuple(draw.randint(1, 140) // group + 1 for _ in range(sequences)),
        lengths_k=tuple(draw.randint(0, 260) for _ in range(sequences)),
        form=form,
        heads=heads_kv * group,
        heads_kv=heads_kv,
        head_dim=draw.randint(1, head_dim),
        head_dim_v=draw.randint(1, head_dim_v),
        page_size=draw.choice((1, 7, 16, 64)),
        pack=draw.random() < 0.5,
        causal=draw.random() < 0.5,
        window=(draw.choice((-1, 0, 50)), draw.choice((-1, 0, 50))),
        chunk=draw.choice((0, 0, 19, 64)),
        softcap=draw.choice((0.0, 0.0, 3.0)),
        sink=draw.random() < 0.3,
        scale=draw.choice((0.125, 0.125, 1.0, -0.2)),
        seed=draw.randint(1, 1 << 30),
    )


@pytest.mark.parametrize("name", VARIANTS)
def test_sampled_cases(emulated: Callable[..., Kernel], name: str):
    kernel = emulated(name)
    draw = random.Random(name)  # noqa: S311  test data, not secrets
    for _ in range(8):
        case = sampled(draw, kernel.variant.head_dim, kernel.variant.head_dim_v)
        attention = Attention(kernel.variant, case)
        try:
            attention.check(attention.run(kernel))
        except AssertionError as error:
            raise AssertionError(f"{case}: {error}") from error


@pytest.mark.parametrize("name", VARIANTS[:5])
def test_sharing_a_tile_does_not_change_a_bit(emulated: Callable[..., Kernel], name: str):
    kernel = emulated(name)
    case = Case((33, 5), (190, 64), heads=6, causal=True, form="packed")
    apart = Attention(kernel.variant, case).run(kernel)
    shared = Attention(kernel.variant, replace(case, pack=True)).run(kernel)
    for (out, lse), (shared_out, shared_lse) in zip(apart, shared, strict=True):
        assert (out == shared_out).all()
        assert (lse == shared_lse).all()


def test_the_variants_cover_every_head_dimension():
    heads = {(variant.head_dim, variant.head_dim_v) for variant in FAMILY.variants}
    served = [variant for variant in FAMILY.variants if variant.name in VARIANTS]
    assert {(variant.head_dim, variant.head_dim_v) for variant in served} == heads


CHANGES = {
    "rows unpermuted": Change("slab.cuh", "(chunk ^ (row % 8))", "chunk"),
    "rows half permuted": Change("slab.cuh", "(chunk ^ (row % 8))", "(chunk ^ (row % 4))"),
    "Q and K exchanged": Change(
        "mma_sync.cuh", "lane / 16 * 8 + lane % 8, lane / 8 % 2", "lane % 16, lane / 16"
    ),
    "P unordered": Change("fragment.cuh", "s[2 * i], s[2 * i + 1]", "s[2 * i + 1], s[2 * i]"),
    "columns past a slab": Change("mma_sync.cuh", "step / kSlabSteps * Rows", "step / kSlabSteps"),
    "causal, one key less": Change("mask.cuh", "diagonal + 1 + mask.", "diagonal + mask."),
    "window, one key more": Change("mask.cuh", "diagonal - mask.", "diagonal - 1 - mask."),
    "mask of the wrong column": Change("mask.cuh", "is_hidden(row, 2 * i + j)", "is_hidden(row, 2 * i)"),
    "unmasked too soon": Change("fwd_portable.cu", "max(0, first_sees.end) / C::kTileN", "item.block_end"),
    "copies not awaited": Change(
        "fwd_portable.cu",
        "        wait_copies();\n        __syncthreads();\n        uint32_t const k_tile",
        "        __syncthreads();\n        uint32_t const k_tile",
    ),
    "barrier dropped": Change(
        "fwd_portable.cu",
        "        wait_copies();\n        __syncthreads();\n        uint32_t const k_tile",
        "        wait_copies();\n        uint32_t const k_tile",
    ),
    "one warp at a barrier": Change(
        "fwd_portable.cu",
        "    __syncthreads();  // O is staged",
        "    if (warp == 0) __syncthreads();  // O is staged",
    ),
    "keys past the end read": Change(
        "load_cp_async.cuh", "!kLast || first_row + row < item.seqlen_k", "true"
    ),
    "values before the first seen key kept": Change(
        "fwd_portable.cu", "(first_key - block * C::kTileN) * kSlabRowBytes", "0"
    ),
    "large maxima not subtracted": Change(
        "online_softmax.cuh", "subtract_from_row(s, row, is_large(row) ? row_max[row] : 0.f);", ""
    ),
    "large maxima subtracted once": Change("online_softmax.cuh", "grown[1] || has_large_max", "grown[1]"),
    "no maximum is large": Change("online_softmax.cuh", "fabsf(reference) < kLargeMax", "true"),
    "rows past the end written": Change(
        "fwd_portable.cu", "tile_row < row_count(p.tiles, item)", "tile_row >= 0"
    ),
    "scale's sign lost": Change("scale_sign.cuh", "scale < 0.f ? 0x80008000u : 0u", "0u"),
    "every head the first": Change(
        "query_row.cuh", "item.head + row - position * tiles.pack_gqa", "item.head"
    ),
}
MUTATION_CASES = (
    *("causal", "window", "softcap", "negative scale", "huge scores", "huge scores of lone rows"),
    *("keys that no query sees", "grouped heads", "packed", "odd columns"),
)


def check_mutation_cases(kernel: Kernel) -> None:
    for name in MUTATION_CASES:
        attention = Attention(kernel.variant, CASES[name])
        attention.check(attention.run(kernel))


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_mutated_source_fails(emulated: Callable[..., Kernel], change: Change):
    kernel = emulated("fwd_portable_sm90_fp16_d128", change)
    with pytest.raises(AssertionError):  # EmulationError is one
        check_mutation_cases(kernel)


def test_an_emulation_error_names_its_cause(emulated: Callable[..., Kernel]):
    kernel = emulated("fwd_portable_sm90_fp16_d128", CHANGES["one warp at a barrier"])
    with pytest.raises(EmulationError, match="wait for one another"):
        Attention(kernel.variant, CASES["causal"]).run(kernel)
    kernel = emulated("fwd_portable_sm90_fp16_d128", CHANGES["rows unpermuted"])
    with pytest.raises(EmulationError, match="bank conflicts"):
        Attention(kernel.variant, CASES["causal"]).run(kernel)
