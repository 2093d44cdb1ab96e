"""Dense cases at head_dim 128: lengths, layouts, values, head groups."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from flash_attn3.checks.cases.case import AttentionCase

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

# Around the 64-row warpgroup tile, the 128-row block and key tiles of 128 and 176; and 0.
EDGE_SEQLENS = (0, 1, 2, 63, 64, 65, 127, 128, 129, 130, 175, 176, 177, 255, 256, 257, 352, 353, 1000)
QUICK_SEQLENS = (0, 1, 65, 128, 177, 257)
# (batch, heads, heads_kv): MHA, GQA and MQA, used in turn for the pairs of lengths.
HEADS = ((1, 1, 1), (2, 4, 4), (3, 6, 2), (1, 8, 1), (2, 3, 1), (1, 5, 5))

# Values whose logits grow from the last key to the first.
GROWING = ("rising_keys", "outrunning_keys", "outrunning_rows")

# Values whose logits lie beyond the precision of exponents in float32.
ENORMOUS = ("enormous_logits", "enormous_negative_logits", "enormous_rows")


def edges(seqlens: Sequence[int], dtypes: Iterable[str]) -> Iterator[AttentionCase]:
    """Return every pair of lengths under both masks."""
    turn = 0
    for dtype in dtypes:
        for seqlen_q in seqlens:
            for seqlen_k in seqlens:
                for causal in (False, True):
                    batch, heads, heads_kv = HEADS[turn % len(HEADS)]
                    turn += 1
                    layout = "padded" if turn % 3 else "contiguous"
                    yield AttentionCase(
                        dtype, causal, batch, seqlen_q, seqlen_k, heads, heads_kv, layout=layout
                    )
        turn += 1  # the next dtype pairs the lengths with other groupings


_Shape = tuple[int, int, int, int, int]  # batch, seqlen_q, seqlen_k, heads, heads_kv


def both_masks(dtype: str, shape: _Shape) -> tuple[AttentionCase, AttentionCase]:
    """Return a plain case without and with the causal mask."""
    full = AttentionCase(dtype, False, *shape)
    return full, replace(full, causal=True)


def layouts(dtypes: Iterable[str]) -> Iterator[AttentionCase]:
    """Return every layout in memory."""
    for dtype in dtypes:
        for case in both_masks(dtype, (2, 300, 300, 4, 4)):
            for layout in (
                "contiguous",
                "padded",
                "bhsd",
                "qkv_packed",
                "kv_packed",
                "head_dim_slice",
                "offset",
            ):
                yield replace(case, layout=layout)
            for layout in ("misaligned", "odd_row_stride", "strided_head_dim", "head_dim_outermost"):
                yield replace(case, layout=layout)
            for layout in ("expanded_heads", "expanded_batch", "reversed_strides"):
                yield replace(case, layout=layout)
            yield replace(case, layout="bhsd", heads_kv=1, seqlen_q=77)


def values(dtypes: Iterable[str]) -> Iterator[AttentionCase]:
    """Return every kind of values and of scale."""
    for dtype in dtypes:
        full, causal = both_masks(dtype, (2, 260, 390, 4, 2))
        for case in (full, causal):
            for values in ("uniform", "outliers", "peaked", "equal_logits", "one_huge_logit", "huge_logits"):
                yield replace(case, values=values)
            for values in ("near_overflow", "far_keys", "far_trailing_keys", "nan_in_q"):
                yield replace(case, values=values)
            for values in GROWING:
                yield replace(case, values=values)
            for values in ENORMOUS:
                yield replace(case, values=values)
            for scale in (0.0, -0.1, 1.0, 30.0, 1e-6):
                yield replace(case, softmax_scale=scale)
            if dtype == "bf16":
                yield replace(case, values="overflow_keys")
                yield replace(case, values="overflow_trailing_keys")
                yield replace(case, values="climbing_logits")
        # Not causal: the first rows would see far keys only, ...
        yield replace(full, values="far_leading_keys")
        # ... and a kernel that works on tiles computes 0 * inf = NaN in the rows before the infinite value.
        yield replace(full, values="inf_in_v")


def groups(dtypes: Iterable[str]) -> Iterator[AttentionCase]:
    """Return head groups of many sizes, whose heads may share a tile, at lengths below and above a tile."""
    for dtype in dtypes:
        for heads, heads_kv in ((2, 1), (6, 2), (8, 2), (5, 1), (8, 1), (12, 1), (32, 2), (64, 1), (96, 1)):
            for seqlen_q, seqlen_k in ((1, 300), (5, 130), (17, 17), (130, 200)):
                yield from both_masks(dtype, (2, seqlen_q, seqlen_k, heads, heads_kv))
            yield replace(both_masks(dtype, (2, 33, 200, heads, heads_kv))[1], layout="bhsd", head_dim=64)


def long(dtypes: Iterable[str]) -> Iterator[AttentionCase]:
    """Return long sequences, wide batches and many heads."""
    shapes = (
        *((1, 4096, 4096, 4, 4), (1, 16384, 16384, 2, 1), (2, 8193, 8191, 2, 2), (1, 1, 16384, 8, 8)),
        *((4, 1, 5000, 32, 8), (1, 16, 20000, 4, 1), (1, 5000, 3, 4, 4), (1, 3000, 1000, 4, 2)),
        *((1, 1000, 3000, 4, 2), (64, 100, 100, 8, 8), (1, 130, 130, 128, 16), (300, 5, 9, 2, 1)),
    )
    for dtype in dtypes:
        for shape in shapes:
            yield from both_masks(dtype, shape)
        yield replace(both_masks(dtype, (2, 200, 200, 2, 2))[0], layout="far_batches")
