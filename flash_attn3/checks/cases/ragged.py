"""Cases of sequences of different lengths: packed, padded, in pages."""

from __future__ import annotations

from dataclasses import replace
from itertools import cycle, product
from typing import TYPE_CHECKING, Any

from flash_attn3.checks.cases.case import AttentionCase
from flash_attn3.checks.cases.dense import GROWING
from flash_attn3.checks.cases.forms import FORMS, PAGED
from flash_attn3.checks.cases.options import NATIVE, ODD, WIDE, with_head_dims

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# One key a page; below, at and above the size of tiles; powers of two and others.
PAGE_SIZES = (1, 7, 16, 48, 64, 128, 256)
_MASKS: tuple[dict[str, Any], ...] = (
    {"causal": False},
    {"causal": True},
    {"causal": False, "window": (50, 20)},
    {"causal": True, "window": (100, 0), "sink": True},
    {"causal": False, "attention_chunk": 60},
    {"causal": True, "softcap": 20.0},
)
# dtype, (batch, seqlen_q, seqlen_k, heads, heads_kv), form, page_size, mask, head dimensions
_Parts = tuple[str, tuple[int, int, int, int, int], str, int, dict[str, Any], tuple[int, int]]
_SHAPES = ((5, 200, 300, 4, 2), (9, 300, 130, 3, 3), (3, 1, 700, 8, 1))


def ragged(dtypes: Iterable[str]) -> Iterator[AttentionCase]:
    """Return every form with every mask and kernel; shapes and page sizes are used in turn."""
    for seed, parts in enumerate(_parts(dtypes), start=1):
        yield _case(seed, *parts)


def _parts(dtypes: Iterable[str]) -> Iterator[_Parts]:
    page_sizes, shapes, plain = cycle(PAGE_SIZES), cycle(_SHAPES), cycle(_MASKS[:2])
    masks = cycle(_MASKS)
    extremes = (
        (1, 129, 129, 2, 1),
        (200, 9, 40, 2, 1),
        (4, 2000, 3000, 4, 2),
        (3, 60, 0, 2, 2),
        (3, 0, 60, 2, 2),
    )
    for dtype in dtypes:
        for pair, form, mask in product(NATIVE, FORMS, _MASKS):
            yield dtype, next(shapes), form, next(page_sizes), mask, pair
        for pair, page_size, mask in product(NATIVE, PAGE_SIZES, _MASKS[:2]):
            yield dtype, _SHAPES[0], "paged", page_size, mask, pair
        for pair, form in product((*ODD, (40, 40), (160, 120)), ("packed", "padded", "paged")):
            yield dtype, _SHAPES[0], form, 16, _MASKS[1], pair
        for pair, form in product(WIDE, FORMS):
            yield dtype, next(shapes), form, next(page_sizes), next(masks), pair
        for form, shape in product(FORMS, extremes):
            yield dtype, shape, form, 64, next(plain), (128, 128)


def growing_ragged(dtypes: Iterable[str]) -> Iterator[AttentionCase]:
    """Return logits that grow over many key blocks, packed and in pages."""
    forms = (("packed", 0, (5, 300, 1100, 4, 2)), ("paged", 64, (4, 7, 1300, 8, 1)))
    for dtype, values, (form, page_size, shape) in product(dtypes, GROWING, forms):
        yield replace(_case(1, dtype, shape, form, page_size, _MASKS[1], (128, 128)), values=values)


def quick_ragged() -> tuple[AttentionCase, ...]:
    """Return every form, every class of mask and every kernel at least once."""
    pairs, masks, page_sizes = cycle((*NATIVE, WIDE[0])), cycle(_MASKS), cycle(PAGE_SIZES)
    return tuple(
        _case(seed, dtype, (4, 70, 150, 4, 2), form, next(page_sizes), next(masks), next(pairs))
        for seed, (dtype, form) in enumerate(product(("bf16", "fp16"), FORMS), start=1)
    )


def _case(  # noqa: PLR0917  the order of _Parts
    seed: int,
    dtype: str,
    shape: tuple[int, int, int, int, int],
    form: str,
    page_size: int,
    mask: dict[str, Any],
    pair: tuple[int, int],
) -> AttentionCase:
    case = AttentionCase(
        dtype, False, *shape, form=form, page_size=page_size if form in PAGED else 0, seed=seed
    )
    return with_head_dims(replace(case, **mask), pair)
