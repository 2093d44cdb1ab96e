"""Cases of every category for every kernel: each dtype, head dimension and class of mask has its own."""

from __future__ import annotations

from dataclasses import replace
from itertools import cycle, product
from typing import TYPE_CHECKING, Any

from flash_attn3.checks.cases.case import AttentionCase
from flash_attn3.checks.cases.forms import FORMS, PAGED
from flash_attn3.checks.cases.options import NATIVE, WIDE, with_head_dims
from flash_attn3.checks.cases.ragged import PAGE_SIZES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_MASKS: tuple[dict[str, Any], ...] = (
    {"causal": False},
    {"causal": True},
    {"causal": False, "window": (40, 10)},
)
# batch, seqlen_q, seqlen_k, heads, heads_kv. A single query sees every key, so that the kernel of a full mask
# computes it under a causal one, too, and decode kernels take few queries: there are five other shapes.
_SHAPES = (
    *((1, 64, 64, 2, 2), (2, 130, 200, 4, 2), (1, 257, 65, 3, 1)),
    *((2, 1, 300, 8, 2), (2, 5, 300, 8, 2), (1, 200, 513, 2, 1)),
)
_LAYOUTS = ("padded", "bhsd", "head_dim_slice", "offset", "misaligned")
_VALUES = ("uniform", "outliers", "peaked", "rising_keys", "outrunning_keys")


def per_kernel(
    dtypes: Iterable[str], pairs: Sequence[tuple[int, int]] = (*NATIVE, WIDE[0])
) -> Iterator[AttentionCase]:
    """Return five cases or more of each category for each dtype, pair of head dimensions and mask."""
    page_sizes = cycle(PAGE_SIZES)
    for dtype, pair, mask in product(dtypes, pairs, _MASKS):
        for shape in _SHAPES:
            yield with_head_dims(replace(AttentionCase(dtype, False, *shape), **mask), pair)
        usual = with_head_dims(replace(AttentionCase(dtype, False, 2, 130, 200, 4, 2), **mask), pair)
        yield from (replace(usual, layout=layout) for layout in _LAYOUTS)
        yield from (replace(usual, values=values) for values in _VALUES)
        for seed, form in enumerate((*FORMS, "paged"), start=1):
            page_size = next(page_sizes) if form in PAGED else 0
            yield replace(usual, batch=5, form=form, page_size=page_size, seed=seed)
