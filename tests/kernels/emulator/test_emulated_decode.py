"""Sources of the decode kernels on the CPU, against float64; mutations of them fail."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from kernels.table.families.decode import FAMILY
from tests.kernels.emulator.attention import Case
from tests.kernels.emulator.decoding import Decoding
from tests.kernels.emulator.emulator import Change

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.kernels.emulator.emulator import Kernel

# Every head dimension, both dtypes, one to four buffers.
VARIANTS = (
    "decode_sm80_fp16_d64",
    "decode_sm86_bf16_d128",
    "decode_sm90_fp16_d128",
    "decode_sm120_bf16_d256",
)
CASES = {
    "one row": Case((1,), (1,)),
    "one part": Case((1,), (130,), heads=8),
    "no keys": Case((1, 3), (0, 40), sink=True),
    "no keys at all": Case((5,), (0,)),
    "more queries than keys": Case((16,), (7,), causal=True),
    "many parts": Case((1,), (1000,), heads=8),
    "many parts of two sequences": Case((1, 1), (1000, 300), heads=6, heads_kv=1),
    "several tiles": Case((13, 9), (390, 200), heads=6, causal=True),
    "causal": Case((7, 8), (197, 300), causal=True),
    "window": Case((5,), (700,), window=(140, 20)),
    "diagonal": Case((15,), (160,), window=(0, 0)),
    "chunks": Case((15,), (310,), window=(-1, 30), chunk=37),
    "softcap": Case((4,), (340,), causal=True, softcap=5.0, scale=0.5),
    "sink": Case((3,), (410,), causal=True, sink=True, heads=4),
    "negative scale": Case((2,), (390,), scale=-0.3),
    "scale 0": Case((2,), (190,), scale=0.0, causal=True),
    "large scores": Case((6,), (390,), scale=4.0),
    "huge scores": Case((6, 3), (390, 70), scale=3e9, causal=True),
    "huge negative scores": Case((6,), (390,), scale=-3e9, window=(90, 0)),
    "keys that no query sees": Case((5, 3), (300, 290), window=(70, 0)),
    "chunks that no query sees": Case((9,), (300,), chunk=120, form="packed"),
    "pages that no query sees": Case((3, 1), (250, 300), form="paged", page_size=16, window=(40, 0)),
    "lengths": Case((15, 0, 3), (190, 77, 0), causal=True),
    "packed": Case((5, 0, 13, 4, 1), (9, 20, 0, 200, 64), form="packed", causal=True),
    "many sequences": Case((1,) * 40, tuple(range(0, 400, 10)), form="packed", heads=1, heads_kv=1),
    "pages of a row": Case((3, 7, 1), (350, 70, 0), form="paged", page_size=1, causal=True),
    "pages": Case((3, 7), (450, 71), form="paged", page_size=48, heads=4, window=(230, 5)),
    "fewer columns": Case((4,), (170,), head_dim=8, head_dim_v=24),
    "odd columns": Case((4,), (170,), head_dim=33, head_dim_v=59),
}


def check(kernel: Kernel, case: Case, blocks: int = 7, parts: int = 4) -> None:
    decoding = Decoding(kernel.variant, case, blocks, parts)
    decoding.check(decoding.run(kernel))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("name", VARIANTS)
def test_named_cases(emulated: Callable[..., Kernel], name: str, case: Case):
    check(emulated(name), case)


def sampled(draw: random.Random, head_dim: int, head_dim_v: int) -> Case:
    sequences = draw.randint(1, 4)
    heads_kv = draw.choice((1, 2))
    group = draw.choice((1, 2, 3, 8))
    return Case(
        lengths_q=(*(draw.randint(0, 4) for _ in range(sequences - 1)), draw.randint(1, 4)),
        lengths_k=tuple(draw.randint(0, 600) for _ in range(sequences)),
        form=draw.choice(("dense", "packed", "paged")),
        heads=heads_kv * group,
        heads_kv=heads_kv,
        head_dim=draw.randint(1, head_dim),
        head_dim_v=draw.randint(1, head_dim_v),
        page_size=draw.choice((1, 7, 16, 64)),
        causal=draw.random() < 0.5,
        window=(draw.choice((-1, 0, 150)), draw.choice((-1, 0, 50))),
        chunk=draw.choice((0, 0, 119, 64)),
        softcap=draw.choice((0.0, 0.0, 3.0)),
        sink=draw.random() < 0.3,
        scale=draw.choice((0.125, 0.125, 1.0, -0.2)),
        seed=draw.randint(1, 1 << 30),
    )


@pytest.mark.parametrize("name", VARIANTS)
def test_sampled_cases(emulated: Callable[..., Kernel], name: str):
    kernel = emulated(name)
    draw = random.Random(name)  # noqa: S311  test data, not secrets
    for _ in range(12):
        case = sampled(draw, kernel.variant.head_dim, kernel.variant.head_dim_v)
        blocks, parts = draw.choice((1, 3, 8, 40)), draw.choice((1, 3, 8))
        try:
            check(kernel, case, blocks, parts)
        except AssertionError as error:
            raise AssertionError(f"{case}, {blocks} blocks, {parts} parts: {error}") from error


@pytest.mark.parametrize("form", ["dense", "packed", "paged"])
@pytest.mark.parametrize("name", VARIANTS)
def test_the_bits_of_a_sequence_depend_on_nothing_else(emulated: Callable[..., Kernel], name: str, form: str):
    """Neither on the other sequences nor on the number of thread blocks."""
    kernel = emulated(name)
    alone = Case((2,), (700,), form=form, heads=4, causal=True)
    together = Case((2, 1, 3), (700, 30, 400), form=form, heads=4, causal=True)
    results = [
        Decoding(kernel.variant, case, blocks, parts=5).run(kernel)[0]
        for case, blocks in (
            (alone, 1),
            (alone, 5),
            (alone, 40),
            (together, 1),
            (together, 6),
            (together, 64),
        )
    ]
    out, lse = results[0]
    for other_out, other_lse in results[1:]:
        assert (other_out == out).all()
        assert (other_lse == lse).all()


CHANGES = {
    "a share without its end": Change(
        "decode.cu", "unit.part_count(min(end, unit.steps))", "unit.part_count(end)"
    ),
    "copies not awaited": Change(
        "decode.cu", "wait_copies_but<C::kStages - 1>();\n            __syncwarp();", "__syncwarp();"
    ),
    "counters kept": Change("decode.cu", "if (is_last) *arrived = 0;", ""),
    "staging written too soon": Change(
        "decode.cu",
        "columns[3] = fmaf(own.w, weights[w], columns[3]);\n        }\n        __syncthreads();",
        "columns[3] = fmaf(own.w, weights[w], columns[3]);\n        }",
    ),
    "weights of other warps": Change(
        "decode.cu", "weight_of(sums[w].reference", "weight_of(sums[0].reference"
    ),
    "parts unweighted": Change(
        "decode_merge.cuh", "fmaf(other.o[i], theirs, o[i] * own)", "other.o[i] + o[i]"
    ),
    "keys past the end read": Change("decode.cu", "key >= work.item.seqlen_k", "key < 0"),
    "rows before the first seen key read": Change(
        "decode.cu", "max(first_row + lane, work.first_key)", "first_row + lane"
    ),
    "unmasked too soon": Change(
        "decode.cu", "first_key + C::kWarpKeys > unmasked.end", "first_key > unmasked.end"
    ),
    "rows past the end stored": Change("decode.cu", "    if (!used) return;\n", ""),
    "one slot for all": Change("decode.cu", "unit.batch * of_sequence + unit.index", "0 * unit.index"),
}
MUTATION_CASES = (
    *("many parts", "many parts of two sequences", "several tiles", "window", "keys that no query sees"),
    *("pages that no query sees", "many sequences", "packed", "odd columns"),
)


def check_mutation_cases(kernel: Kernel) -> None:
    for name in MUTATION_CASES:
        check(kernel, CASES[name])
    check(kernel, CASES["many parts"], blocks=3)  # one of which computes parts of two units


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_mutated_source_fails(emulated: Callable[..., Kernel], change: Change):
    kernel = emulated("decode_sm90_fp16_d128", change)
    with pytest.raises(AssertionError):  # EmulationError is one
        check_mutation_cases(kernel)


def test_the_variants_cover_every_head_dimension():
    served = {variant.head_dim for variant in FAMILY.variants if variant.name in VARIANTS}
    assert served == {variant.head_dim for variant in FAMILY.variants}
