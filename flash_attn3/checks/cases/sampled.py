"""Random cases over the whole matrix: dtypes, head dimensions, masks, softcaps, sinks, forms, lengths."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from flash_attn3.checks.cases.case import DTYPES, AttentionCase
from flash_attn3.checks.cases.dense import GROWING
from flash_attn3.checks.cases.forms import FORMS, PAGED
from flash_attn3.checks.cases.options import NATIVE, ODD, PADDED, UNEQUAL, WIDE, with_head_dims
from flash_attn3.checks.cases.ragged import PAGE_SIZES

# Most scores of one case: 16k x 1k, so that thousands of cases take minutes.
_MOST_SCORES = 1 << 24
# Half of the bytes of a cache that is too large to be copied (`kernels/host/ops/fwd_torch.cpp`): pages have
# rows that are not in use.
_LARGE_CACHE = 1 << 23


def sampled_cases(samples: int, seed: int) -> tuple[AttentionCase, ...]:
    """Return random cases; the same for the same seed on every Python."""
    draw = random.Random(seed)  # noqa: S311  test data, not secrets
    return tuple(_sample(draw, seed * 1_000_000 + index + 1) for index in range(samples))


def _sample(draw: random.Random, seed: int) -> AttentionCase:
    form = draw.choice(("dense", "dense", "dense", draw.choice(tuple(FORMS))))
    heads_kv = draw.choice((1, 2, 3, 4, 8))
    heads = heads_kv * draw.choice((1, 1, 2, 3, 4, 8))
    batch = draw.randint(1, 5 if form == "dense" else 12)
    seqlen_q, seqlen_k = _length(draw), _length(draw)
    while batch * heads * seqlen_q * seqlen_k > _MOST_SCORES:
        seqlen_q, seqlen_k = (seqlen_q // 2, seqlen_k) if seqlen_q > seqlen_k else (seqlen_q, seqlen_k // 2)
    case = AttentionCase(
        dtype=draw.choice(DTYPES),
        batch=batch,
        seqlen_q=seqlen_q,
        seqlen_k=seqlen_k,
        heads=heads,
        heads_kv=heads_kv,
        layout="contiguous"
        if form != "dense"
        else draw.choice(("contiguous", "padded", "bhsd", "head_dim_slice", "offset")),
        values=draw.choice(("normal", "normal", "uniform", "outliers", "peaked", *GROWING)),
        softmax_scale=draw.choice((None, None, None, 0.02, 0.5, -0.1)),
        seed=seed,
        sink=draw.random() < 0.2,
        softcap=draw.choice((0.0, 0.0, 0.0, 5.0, 30.0)),
        form=form,
        page_size=draw.choice(PAGE_SIZES) if form in PAGED else 0,
        **_mask(draw),
    )
    if case.values in GROWING:
        # A sink could outweigh the few small logits of a window: the output would underflow float16.
        case = replace(case, sink=False)
    return _with_small_cache(with_head_dims(case, draw.choice((*NATIVE * 4, *PADDED, *ODD, *UNEQUAL, *WIDE))))


def _with_small_cache(case: AttentionCase) -> AttentionCase:
    """Return the case with fewer keys where its rows make a copy necessary and its cache is not copied."""
    most = max(case.head_dim, case.head_dim_v or 0)
    is_cache = case.form != "dense" and not FORMS[case.form].packed_k
    if is_cache and (case.head_dim % 8 or (case.head_dim_v or 0) % 8):
        while 2 * case.batch * case.seqlen_k * case.heads_kv * most >= _LARGE_CACHE:
            case = replace(case, seqlen_k=case.seqlen_k // 2)
    return case


def _mask(draw: random.Random) -> dict[str, Any]:
    """Return the arguments of a mask: half of them full or causal, the others windows and chunks."""
    causal = draw.choice((False, True))
    choice = draw.choice(("plain", "plain", "window", "chunk"))
    if choice == "window":
        left, right = (draw.choice((-1, 0, draw.randint(1, 400))) for _ in range(2))
        return {"causal": causal, "window": (left, right)}
    if choice == "chunk":
        return {"causal": causal, "attention_chunk": draw.choice((16, 128, draw.randint(1, 500)))}
    return {"causal": causal}


def _length(draw: random.Random) -> int:
    # Half of the lengths are near a tile boundary, the others log-uniform.
    if draw.random() < 0.5:
        return max(0, draw.choice((64, 80, 128)) * draw.randint(0, 12) + draw.randint(-1, 1))
    return int(2 ** draw.uniform(0, 12))
