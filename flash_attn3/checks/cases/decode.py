"""Cases of few query rows over many keys, which decode kernels serve."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import cycle, product
from typing import TYPE_CHECKING, Any

from flash_attn3.checks.cases.case import DTYPES, AttentionCase
from flash_attn3.checks.cases.dense import ENORMOUS, GROWING
from flash_attn3.checks.cases.options import with_head_dims
from flash_attn3.checks.cases.ragged import PAGE_SIZES

if TYPE_CHECKING:
    from collections.abc import Iterator

PAIRS = ((64, 64), (128, 128), (256, 256))
"""(head_dim, head_dim_v) with a kernel of their own."""
_PADDED = ((8, 8), (80, 80), (192, 192), (192, 128), (40, 72), (33, 59), (255, 254))
# seqlen_q, heads, heads_kv: up to 16 rows for each key head.
_ROWS = ((1, 1, 1), (1, 8, 2), (1, 16, 1), (2, 6, 2), (4, 8, 2), (16, 3, 3), (5, 3, 1), (1, 12, 4))
# One step of 64 keys, one part, and more parts than fit between thread blocks without a cut.
_SEQLENS_K = (0, 1, 63, 64, 65, 256, 257, 1000, 4097, 20000)
_MASKS: tuple[dict[str, Any], ...] = (
    {"causal": False},
    {"causal": True},
    {"causal": False, "window": (300, 0)},
    {"causal": True, "window": (1000, -1), "sink": True},
    {"causal": False, "window": (-1, 7)},
    {"causal": True, "attention_chunk": 700},
    {"causal": True, "softcap": 20.0},
    {"causal": True, "softmax_scale": -0.1},
)
_LAYOUTS = ("padded", "bhsd", "head_dim_slice", "offset", "misaligned")
_VALUES = ("uniform", "outliers", "peaked", "huge_logits", *GROWING, *ENORMOUS)
_BATCHES = (1, 2, 3, 40)


def decode_cases(quick: bool, samples: int = 0, seed: int = 1) -> tuple[AttentionCase, ...]:
    """Return every fixed case and ``samples`` random ones drawn from ``seed``; or a few, if ``quick``."""
    fixed = tuple({case.name: case for case in _fixed()}.values())
    return fixed[::7] if quick else (*fixed, *_sampled(samples, seed))


def fixed_decode_cases() -> tuple[AttentionCase, ...]:
    """Return the cases that every kernel runs."""
    return decode_cases(quick=False)


def _fixed() -> Iterator[AttentionCase]:
    for dtype, pair in product(DTYPES, PAIRS):
        rows, masks, seqlens = cycle(_ROWS), cycle(_MASKS), cycle(_SEQLENS_K)
        plain = with_head_dims(AttentionCase(dtype, True, 2, 1, 1500, 8, 2), pair)
        for seqlen_k, mask in product(_SEQLENS_K, _MASKS):
            yield _with_rows(replace(plain, seqlen_k=seqlen_k, batch=1 + seqlen_k % 3, **mask), next(rows))
        for case, layout in product((plain, replace(plain, causal=False, seqlen_q=3)), _LAYOUTS):
            yield _with_rows(replace(case, layout=layout), next(rows))
        for values, mask in product(_VALUES, _MASKS[:3]):
            seqlen_k = max(1, next(seqlens))
            yield _with_rows(replace(plain, values=values, seqlen_k=seqlen_k, **mask), next(rows))
        for draw, batch in enumerate((*_BATCHES, *_BATCHES, *_BATCHES), start=1):
            case = replace(plain, batch=batch, seqlen_k=2500, seed=draw, **next(masks))
            yield _with_rows(replace(case, form="padded_k"), next(rows))
            for page_size in PAGE_SIZES:
                yield _with_rows(replace(case, form="paged_k", page_size=page_size), next(rows))
    for dtype, pair, mask in product(DTYPES, _PADDED, _MASKS[::2]):
        yield with_head_dims(
            AttentionCase(dtype=dtype, batch=2, seqlen_q=2, seqlen_k=900, heads=4, heads_kv=2, **mask), pair
        )


def _with_rows(case: AttentionCase, rows: tuple[int, int, int]) -> AttentionCase:
    seqlen_q, heads, heads_kv = rows
    return replace(case, seqlen_q=seqlen_q, heads=heads, heads_kv=heads_kv)


def _sampled(samples: int, seed: int) -> Iterator[AttentionCase]:
    draw = random.Random(seed)  # noqa: S311  test data, not secrets
    for index in range(samples):
        form = draw.choice(("dense", "padded_k", "paged_k"))
        case = AttentionCase(
            dtype=draw.choice(DTYPES),
            batch=draw.choice((1, 1, 2, 5, 17, 64)),
            seqlen_q=1,
            seqlen_k=round(2 ** draw.uniform(0, 13)),
            heads=1,
            heads_kv=1,
            values=draw.choice(("normal", "normal", "uniform", "peaked", *GROWING)),
            seed=seed * 1_000_000 + index + 1,
            form=form,
            page_size=draw.choice(PAGE_SIZES) if form == "paged_k" else 0,
            **draw.choice(_MASKS[:-1]),
        )
        case = replace(case, sink=case.sink and case.values not in GROWING)
        yield _with_rows(with_head_dims(case, draw.choice((*PAIRS * 4, *_PADDED[:4]))), draw.choice(_ROWS))
