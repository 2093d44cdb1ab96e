"""Cases of head dimensions, windows, chunks, softcaps and sinks, each with the next kernel in turn."""

from __future__ import annotations

from dataclasses import replace
from itertools import cycle, product
from typing import TYPE_CHECKING, Any

from flash_attn3.checks.cases.case import AttentionCase
from flash_attn3.checks.cases.dense import ENORMOUS, GROWING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# (head_dim, head_dim_v) with a kernel of their own.
NATIVE = ((64, 64), (96, 96), (128, 128), (192, 128), (192, 192), (256, 256))
# Pairs that the next larger kernel serves; and pairs with rows that the tensor copy engine cannot read.
PADDED = tuple((head_dim, head_dim) for head_dim in (8, 16, 40, 72, 80, 120, 136, 160, 224, 248))
ODD = ((59, 59), (111, 111), (64, 33), (1, 1), (129, 128), (255, 255))
UNEQUAL = ((64, 32), (40, 72), (128, 64), (160, 120), (72, 200), (256, 64), (32, 256))
# Values wider than other kernels serve, which a kernel computes in slices: whole slices, parts, odd rows.
WIDE = ((64, 512), (64, 256), (40, 384), (64, 136), (64, 257), (8, 264), (59, 511))
# Fewer lengths than dense.EDGE_SEQLENS: the code that handles lengths is the same for every head_dim.
SEQLENS = (0, 1, 65, 128, 257)
# Smaller than a tile, a whole tile, longer than every sequence; with and without a limit on either side.
WINDOWS = (
    (0, 0),
    (3, 0),
    (16, -1),
    (-1, 16),
    (5, 3),
    (64, 64),
    (127, 0),
    (128, 1),
    (200, -1),
    (-1, 129),
    (900, 900),
)
CHUNKS = (1, 16, 100, 128, 1000)
SOFTCAPS = (0.5, 15.0, 50.0)
_SHAPES = ((2, 300, 300, 4, 4), (1, 130, 500, 4, 2), (1, 500, 130, 3, 1), (3, 1, 400, 6, 2), (2, 65, 0, 2, 1))


def with_head_dims(case: AttentionCase, head_dims: tuple[int, int]) -> AttentionCase:
    """Return the case with (head_dim, head_dim_v)."""
    head_dim, head_dim_v = head_dims
    return replace(case, head_dim=head_dim, head_dim_v=None if head_dim == head_dim_v else head_dim_v)


def head_dims(dtypes: Iterable[str]) -> Iterator[AttentionCase]:
    """Return every head dimension, the native ones at many lengths."""
    for dtype in dtypes:
        yield from _native_head_dims(dtype)
        for pair in (*PADDED, *ODD, *UNEQUAL):
            case = with_head_dims(AttentionCase(dtype, True, 2, 130, 200, 4, 2), pair)
            small = replace(case, batch=1, seqlen_q=257, seqlen_k=65, heads=3, heads_kv=3)
            yield from (case, replace(case, causal=False), small, replace(small, causal=False))
            yield replace(case, layout="padded")
            yield replace(case, causal=False, values="uniform")


def _native_head_dims(dtype: str) -> Iterator[AttentionCase]:
    for pair in (*(pair for pair in NATIVE if pair != (128, 128)), (128, 64)):
        for seqlen_q in SEQLENS:
            for seqlen_k in SEQLENS:
                for causal in (False, True):
                    yield with_head_dims(AttentionCase(dtype, causal, 2, seqlen_q, seqlen_k, 4, 2), pair)
        for values in ("uniform", "peaked", "huge_logits", "far_keys"):
            yield with_head_dims(AttentionCase(dtype, False, 2, 260, 390, 4, 2, values=values), pair)
        for scale in (-0.1, 0.0, 1.0):
            yield with_head_dims(AttentionCase(dtype, True, 2, 260, 390, 4, 2, softmax_scale=scale), pair)
        for layout in ("padded", "bhsd", "misaligned", "head_dim_outermost"):
            yield with_head_dims(AttentionCase(dtype, True, 2, 300, 300, 4, 4, layout=layout), pair)
        yield with_head_dims(AttentionCase(dtype, True, 1, 3000, 3000, 4, 2), pair)


def masks(dtypes: Iterable[str]) -> Iterator[AttentionCase]:
    """Return windows and chunks, each with the next kernel in turn."""
    pairs = cycle(NATIVE)
    for dtype in dtypes:
        for shape in _SHAPES:
            for causal in (False, True):
                for window in WINDOWS:
                    yield with_head_dims(AttentionCase(dtype, causal, *shape, window=window), next(pairs))
                for chunk in CHUNKS:
                    yield with_head_dims(
                        AttentionCase(dtype, causal, *shape, attention_chunk=chunk), next(pairs)
                    )
                yield with_head_dims(
                    AttentionCase(dtype, causal, *shape, attention_chunk=100, window=(60, 20)), next(pairs)
                )
            next(pairs)  # pairs the windows with other kernels for the next shape
        for window in ((64, 0), (1024, 0), (1024, 1024), (1, 0)):
            for pair in NATIVE:
                yield with_head_dims(AttentionCase(dtype, False, 1, 4096, 4096, 2, 1, window=window), pair)


def caps_and_sinks(dtypes: Iterable[str]) -> Iterator[AttentionCase]:
    """Return softcaps and sinks with every class of mask, each with the next kernel in turn."""
    pairs = cycle(NATIVE)
    masks: tuple[dict[str, Any], ...] = (
        {},
        {"window": (40, 10)},
        {"window": (-1, 30)},
        {"attention_chunk": 64},
    )
    for dtype in dtypes:
        for shape in _SHAPES:
            for causal in (False, True):
                for mask in masks:
                    for softcap in SOFTCAPS:
                        case = AttentionCase(
                            dtype, causal, *shape, **mask, softcap=softcap, sink=softcap == 15.0
                        )
                        yield with_head_dims(case, next(pairs))
                    yield with_head_dims(AttentionCase(dtype, causal, *shape, **mask, sink=True), next(pairs))
            next(pairs)
        for pair in NATIVE:
            for scale in (-0.2, 0.0, 1.0):
                case = AttentionCase(dtype, True, 2, 260, 390, 4, 2, softcap=20.0, softmax_scale=scale)
                yield with_head_dims(case, pair)
                yield with_head_dims(replace(case, softcap=0.0, sink=True), pair)
            for values in ("peaked", "huge_logits", "uniform"):
                yield with_head_dims(
                    AttentionCase(dtype, False, 2, 260, 390, 4, 2, softcap=30.0, values=values), pair
                )
                yield with_head_dims(
                    AttentionCase(dtype, True, 2, 260, 390, 4, 2, sink=True, values=values), pair
                )


def enormous(dtypes: Iterable[str]) -> Iterator[AttentionCase]:
    """Return logits of 4e9 and more for every kernel and class of mask, and for single queries and keys."""
    masks: tuple[dict[str, Any], ...] = (
        {"causal": False},
        {"causal": True, "sink": True},
        {"causal": False, "window": (300, 20)},
        {"causal": True, "attention_chunk": 200},
        {"causal": False, "softcap": 15.0},
    )
    for dtype in dtypes:
        every = (*ENORMOUS, "climbing_logits") if dtype == "bf16" else ENORMOUS
        for pair, mask, values in product((*NATIVE, WIDE[0], (16, 16)), masks, every):
            case = AttentionCase(
                dtype=dtype, batch=1, seqlen_q=270, seqlen_k=690, heads=4, heads_kv=2, values=values, **mask
            )
            yield with_head_dims(case, pair)
        for pair, (seqlen_q, seqlen_k) in product((*NATIVE, (16, 16)), ((1, 1), (5, 300))):
            for values in ENORMOUS[:2]:
                case = AttentionCase(dtype, False, 1, seqlen_q, seqlen_k, 1, 1, values=values)
                yield with_head_dims(case, pair)


def growing(dtypes: Iterable[str]) -> Iterator[AttentionCase]:
    """Return logits that grow over many key blocks: head dimensions, masks, heads that share a tile."""
    shapes = (
        ((64, 64), (2, 701, 1111, 4, 2)),
        ((128, 128), (1, 1001, 1379, 6, 2)),
        ((128, 128), (2, 1153, 1153, 4, 1)),
        ((192, 128), (1, 513, 901, 4, 4)),
        ((256, 256), (1, 333, 777, 2, 1)),
        ((128, 128), (3, 5, 1301, 8, 1)),
        ((64, 64), (2, 1, 1501, 16, 2)),
    )
    masks: tuple[dict[str, Any], ...] = (
        {"causal": False, "window": (400, 100)},
        {"causal": True, "sink": True},
        {"causal": False, "softcap": 15.0},  # limits the growth
        {"causal": True, "softcap": 50.0},
    )
    for dtype in dtypes:
        for values in GROWING:
            for pair, shape in shapes:
                for causal in (False, True):
                    yield with_head_dims(AttentionCase(dtype, causal, *shape, values=values), pair)
            for mask, pair in zip(masks, ((128, 128), (64, 64), (128, 128), (256, 256)), strict=True):
                case = AttentionCase(
                    dtype=dtype, batch=1, seqlen_q=701, seqlen_k=1111, heads=4, heads_kv=2, **mask
                )
                yield with_head_dims(replace(case, values=values), pair)


def wide_values(dtypes: Iterable[str]) -> Iterator[AttentionCase]:
    """Return head_dim_v up to 512 with every class of mask, with and without head groups."""
    masks: tuple[dict[str, Any], ...] = (
        {"causal": False},
        {"causal": True},
        {"causal": False, "window": (40, 10)},
        {"causal": True, "window": (70, 0), "sink": True},
        {"causal": False, "attention_chunk": 64},
        {"causal": True, "softcap": 15.0},
    )
    for dtype in dtypes:
        for pair in WIDE:
            for mask in masks:
                case = AttentionCase(
                    dtype=dtype, batch=2, seqlen_q=130, seqlen_k=200, heads=4, heads_kv=2, **mask
                )
                small = replace(case, batch=1, seqlen_q=65, seqlen_k=33, heads=8, heads_kv=1)
                yield from (with_head_dims(case, pair), with_head_dims(small, pair))
            for seqlen_q, seqlen_k in product(SEQLENS, SEQLENS):
                yield with_head_dims(AttentionCase(dtype, True, 1, seqlen_q, seqlen_k, 3, 3), pair)
            for values in ("uniform", "peaked", "huge_logits", "far_keys"):
                yield with_head_dims(AttentionCase(dtype, False, 2, 260, 390, 4, 2, values=values), pair)
            for layout in ("padded", "bhsd", "misaligned"):
                yield with_head_dims(AttentionCase(dtype, True, 2, 200, 200, 4, 4, layout=layout), pair)
            yield with_head_dims(AttentionCase(dtype, True, 1, 2000, 2000, 4, 1), pair)


def quick_options() -> tuple[AttentionCase, ...]:
    """Return a few small cases of each function above."""
    bf16 = AttentionCase("bf16", False, 2, 65, 177, 4, 2)
    fp16 = AttentionCase("fp16", True, 1, 130, 257, 3, 1)
    pairs = (*NATIVE, *PADDED[::3], *ODD[:4], *UNEQUAL[:3], *WIDE[::2])
    return (
        *(with_head_dims(case, pair) for pair in pairs for case in (bf16, fp16) if pair != (128, 128)),
        *(replace(bf16, window=window, head_dim=64) for window in WINDOWS[:6]),
        *(replace(fp16, window=window, causal=False) for window in WINDOWS[4:9]),
        *(replace(bf16, attention_chunk=chunk) for chunk in CHUNKS[1:3]),
        *(replace(fp16, attention_chunk=chunk, head_dim=96) for chunk in CHUNKS[1:4]),
        *(replace(fp16, softcap=softcap, head_dim=192) for softcap in SOFTCAPS),
        *(replace(case, sink=True, window=(7, 2)) for case in (bf16, fp16)),
        replace(bf16, softcap=20.0, softmax_scale=-0.2, sink=True, head_dim=256),
        replace(bf16, seqlen_k=0, sink=True),
    )
