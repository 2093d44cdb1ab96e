"""The correctness cases: plain data, the same on every machine."""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

# Around the 64-row warpgroup tile, the 128-row block, key tiles of 128 and 176, and nothing at all.
EDGE_SEQLENS = (0, 1, 2, 63, 64, 65, 127, 128, 129, 130, 175, 176, 177, 255, 256, 257, 352, 353, 1000)
QUICK_SEQLENS = (0, 1, 65, 128, 177, 257)
# (batch, heads, heads_kv): MHA, GQA and MQA, cycled through so that every pair of lengths meets one.
HEADS = ((1, 1, 1), (2, 4, 4), (3, 6, 2), (1, 8, 1), (2, 3, 1), (1, 5, 5))
DTYPES = ("bf16", "fp16")


@dataclass(frozen=True)
class Case:
    """One call of attention.

    Attributes:
        layout: how q, k and v lie in memory; a name of ``inputs.LAYOUTS``.
        values: what they hold; a name of ``inputs.VALUES``.
        softmax_scale: None for ``head_dim ** -0.5``.
        seed: of the random numbers.
    """

    dtype: str
    causal: bool
    batch: int
    seqlen_q: int
    seqlen_k: int
    heads: int
    heads_kv: int
    head_dim: int = 128
    layout: str = "contiguous"
    values: str = "normal"
    softmax_scale: float | None = None
    seed: int = 0

    @property
    def name(self) -> str:
        """Everything that tells this case from the others, in one word."""
        parts = [
            f"{self.dtype}_d{self.head_dim}_{'causal' if self.causal else 'full'}",
            f"b{self.batch}_h{self.heads}x{self.heads_kv}_s{self.seqlen_q}x{self.seqlen_k}",
            self.layout,
            self.values,
        ]
        if self.softmax_scale is not None:
            parts.append(f"scale{self.softmax_scale:g}")
        if self.seed:
            parts.append(f"seed{self.seed}")
        return "-".join(parts)

    @property
    def scale(self) -> float:
        """The factor that is applied."""
        return self.head_dim**-0.5 if self.softmax_scale is None else self.softmax_scale

    def params(self) -> dict[str, Any]:
        """Return the case as plain data."""
        return asdict(self)


def full_cases(samples: int, seed: int) -> tuple[Case, ...]:
    """Return every case, and ``samples`` random ones drawn from ``seed``."""
    return (
        *_edges(EDGE_SEQLENS, DTYPES),
        *_layouts(DTYPES),
        *_values(DTYPES),
        *_long(DTYPES),
        *sampled_cases(samples, seed),
    )


def quick_cases() -> tuple[Case, ...]:
    """Return a small selection with every layout, kind of value, mask, dtype and head grouping in it."""
    layouts = (case for case in _layouts(DTYPES) if case.causal == (case.dtype == "bf16"))
    values = (case for case in _values(DTYPES) if case.causal == (case.dtype == "fp16"))
    return (
        *_edges(QUICK_SEQLENS, DTYPES),
        *layouts,
        *values,
        _both_masks("bf16", (1, 2048, 2048, 4, 2))[1],
        _both_masks("fp16", (1, 1000, 3000, 4, 4))[0],
    )


def sampled_cases(samples: int, seed: int) -> tuple[Case, ...]:
    """Return random cases; the same for the same seed on every Python."""
    draw = random.Random(seed)  # noqa: S311  test data, not secrets
    cases = []
    for index in range(samples):
        heads_kv = draw.choice((1, 2, 3, 4, 8))
        cases.append(
            Case(
                dtype=draw.choice(DTYPES),
                causal=draw.choice((False, True)),
                batch=draw.randint(1, 5),
                seqlen_q=_length(draw),
                seqlen_k=_length(draw),
                heads=heads_kv * draw.choice((1, 1, 2, 3, 4, 8)),
                heads_kv=heads_kv,
                layout=draw.choice(("contiguous", "padded", "bhsd", "head_dim_slice", "offset")),
                values=draw.choice(("normal", "normal", "uniform", "outliers", "peaked")),
                softmax_scale=draw.choice((None, None, None, 0.02, 0.5)),
                seed=seed * 1_000_000 + index + 1,
            )
        )
    return tuple(cases)


def _length(draw: random.Random) -> int:
    # Half of them near a tile boundary, the others spread evenly over the orders of magnitude.
    if draw.random() < 0.5:
        return max(0, draw.choice((64, 128, 176)) * draw.randint(0, 12) + draw.randint(-1, 1))
    return int(2 ** draw.uniform(0, 12))


def _edges(seqlens: Sequence[int], dtypes: Iterable[str]) -> Iterator[Case]:
    turn = 0
    for dtype in dtypes:
        for seqlen_q in seqlens:
            for seqlen_k in seqlens:
                for causal in (False, True):
                    batch, heads, heads_kv = HEADS[turn % len(HEADS)]
                    turn += 1
                    layout = "padded" if turn % 3 else "contiguous"
                    yield Case(dtype, causal, batch, seqlen_q, seqlen_k, heads, heads_kv, layout=layout)
        turn += 1  # so that the other dtype meets the other groupings


_Shape = tuple[int, int, int, int, int]  # batch, seqlen_q, seqlen_k, heads, heads_kv


def _both_masks(dtype: str, shape: _Shape) -> tuple[Case, Case]:
    full = Case(dtype, False, *shape)
    return full, replace(full, causal=True)


def _layouts(dtypes: Iterable[str]) -> Iterator[Case]:
    for dtype in dtypes:
        for case in _both_masks(dtype, (2, 300, 300, 4, 4)):
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


def _values(dtypes: Iterable[str]) -> Iterator[Case]:
    for dtype in dtypes:
        full, causal = _both_masks(dtype, (2, 260, 390, 4, 2))
        for case in (full, causal):
            for values in ("uniform", "outliers", "peaked", "equal_logits", "one_huge_logit", "huge_logits"):
                yield replace(case, values=values)
            for values in ("near_overflow", "far_keys", "far_trailing_keys", "nan_in_q"):
                yield replace(case, values=values)
            for scale in (0.0, -0.1, 1.0, 30.0, 1e-6):
                yield replace(case, softmax_scale=scale)
            if dtype == "bf16":
                yield replace(case, values="overflow_keys")
                yield replace(case, values="overflow_trailing_keys")
        # Under a causal mask the first rows would see hidden keys alone, ...
        yield replace(full, values="far_leading_keys")
        # ... and the rows before the infinite value would hold 0 * inf: NaN, in any kernel that works on
        # tiles.
        yield replace(full, values="inf_in_v")


def _long(dtypes: Iterable[str]) -> Iterator[Case]:
    shapes = (
        *((1, 4096, 4096, 4, 4), (1, 16384, 16384, 2, 1), (2, 8193, 8191, 2, 2), (1, 1, 16384, 8, 8)),
        *((4, 1, 5000, 32, 8), (1, 16, 20000, 4, 1), (1, 5000, 3, 4, 4), (1, 3000, 1000, 4, 2)),
        *((1, 1000, 3000, 4, 2), (64, 100, 100, 8, 8), (1, 130, 130, 128, 16), (300, 5, 9, 2, 1)),
    )
    for dtype in dtypes:
        for shape in shapes:
            yield from _both_masks(dtype, shape)
        yield replace(_both_masks(dtype, (2, 200, 200, 2, 2))[0], layout="far_batches")
