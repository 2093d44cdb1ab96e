"""Cases of appending to a cache: plain data, the same on every machine."""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass, replace
from itertools import cycle, product
from typing import Any

from flash_attn3.checks.cases.case import DTYPES

CATEGORIES = ("dense", "paged", "rotary", "dropped", "attended")
"""What a case tests: a cache without pages, pages, rotation, rows that have no place, attention behind it."""
LAYOUTS = ("contiguous", "padded", "misaligned")
LENGTHS = ("fit", "full", "missing")
"""Lengths before: with room for the new rows; some without, some negative; and pages that do not exist."""
PAGE_SIZES = (0, 1, 3, 16, 64)
HEAD_DIMS = (64, 128, 96, 192, 256, 8, 59)
_NO_DEFAULT = object()


@dataclass(frozen=True)
class AppendCase:
    """One call.

    Attributes:
        dtype: a name of ``DTYPES``.
        seqlen_new: rows of each sequence, or the most of a packed one.
        rows: that a sequence has room for, at least.
        head_dim_v: None for head_dim.
        page_size: 0 for a cache without pages.
        packed: whether the new rows are packed sequences of different lengths.
        entries: whether an index says which entry of the cache a sequence has.
        leftpad: whether sequences begin behind a padding.
        rotary_dim: 0 for no rotation.
        own_positions: whether ``rotary_seqlens`` is given.
        layout: of the cache and the new rows; a name of ``LAYOUTS``.
        lengths: a name of ``LENGTHS``.
        seqlen_q: rows of q of each sequence, with which the call attends; 0 for appending alone.
        packed_q: whether q is packed.
        seed: of the random numbers.
    """

    dtype: str
    batch: int
    seqlen_new: int
    rows: int
    heads: int
    heads_kv: int
    head_dim: int = 64
    head_dim_v: int | None = None
    page_size: int = 0
    packed: bool = False
    entries: bool = False
    leftpad: bool = False
    rotary_dim: int = 0
    interleaved: bool = True
    own_positions: bool = False
    layout: str = "contiguous"
    lengths: str = "fit"
    seqlen_q: int = 0
    packed_q: bool = False
    causal: bool = False
    window: tuple[int, int] = (-1, -1)
    seed: int = 0

    @property
    def name(self) -> str:
        """Every field that is not at its default, in one word."""
        head_dims = f"{self.head_dim}" + (f"x{self.head_dim_v}" if self.head_dim_v else "")
        parts = [f"{self.dtype}_d{head_dims}_b{self.batch}_h{self.heads}x{self.heads_kv}"]
        parts.append(f"new{self.seqlen_new}_rows{self.rows}")
        words = {"page_size": "pages", "rotary_dim": "rotary", "seqlen_q": "q", "seed": "seed"}
        parts += [f"{word}{getattr(self, field)}" for field, word in words.items() if getattr(self, field)]
        flags = ("packed", "entries", "leftpad", "own_positions", "packed_q", "causal")
        parts += [flag for flag in flags if getattr(self, flag)]
        if self.rotary_dim and not self.interleaved:
            parts.append("halves")
        if self.window != (-1, -1):
            parts.append("window{}to{}".format(*("all" if side < 0 else side for side in self.window)))
        parts += [value for value in (self.layout, self.lengths) if value not in ("contiguous", "fit")]
        return "-".join(parts)

    @property
    def category(self) -> str:
        """One of ``CATEGORIES``: the last of them that applies."""
        if self.seqlen_q:
            return "attended"
        if self.lengths != "fit":
            return "dropped"
        if self.rotary_dim:
            return "rotary"
        return "paged" if self.page_size else "dense"

    @property
    def columns(self) -> int:
        """Pages of a sequence."""
        return -(-self.rows // self.page_size) if self.page_size else 0

    @property
    def room(self) -> int:
        """Rows of a sequence."""
        return self.columns * self.page_size if self.page_size else self.rows

    @property
    def advances(self) -> bool:
        """Whether each query has a position of its own."""
        return self.causal or self.window != (-1, -1)

    def params(self) -> dict[str, Any]:
        """Return the case as plain data: the fields without a default, and those that differ from theirs."""
        return {
            name: value
            for name, value in asdict(self).items()
            if value != getattr(type(self), name, _NO_DEFAULT)
        }


def append_cases(quick: bool, samples: int = 0, seed: int = 1) -> tuple[AppendCase, ...]:
    """Return fixed cases, of which ``quick`` leaves most out, and random ones."""
    fixed = fixed_cases()
    chosen = fixed[::7] if quick else (*fixed, *(_draw(random.Random(f"{seed}:{i}")) for i in range(samples)))  # noqa: S311
    return tuple({case.name: case for case in chosen}.values())


def fixed_cases() -> tuple[AppendCase, ...]:
    """Return every form of a cache with every form of new rows, and the edges by name."""
    head_dims, layouts = cycle(HEAD_DIMS), cycle(LAYOUTS)
    cases = []
    for dtype, page_size, packed, seqlen_new in product(DTYPES, PAGE_SIZES, (False, True), (1, 7, 130)):
        form = AppendCase(
            dtype, 3, seqlen_new, 200, 4, 2, next(head_dims), page_size=page_size, packed=packed
        )
        cases.append(replace(form, layout=next(layouts), entries=not page_size and packed))
    cases += [_with_rotation(case, i) for i, case in enumerate(cases)]
    cases += [replace(case, lengths=LENGTHS[1 + i % 2]) for i, case in enumerate(cases[::2])]
    attended = [case for case in cases if case.lengths != "missing" and case.layout == "contiguous"]
    cases += [_attended(case, i) for i, case in enumerate(attended)]
    plain = AppendCase("bf16", 2, 5, 100, 4, 2)
    cases += [
        replace(plain, batch=0),
        replace(plain, seqlen_new=0),
        replace(plain, seqlen_new=100, rows=100),
        replace(plain, batch=300, seqlen_new=1, seqlen_q=1),
        replace(plain, batch=130, heads=8, heads_kv=1, seqlen_new=1, page_size=16, seqlen_q=1, causal=True),
        replace(plain, head_dim=64, head_dim_v=512, seqlen_q=4),
        replace(plain, head_dim=192, head_dim_v=128, rotary_dim=64, seqlen_q=9, causal=True),
        replace(plain, seqlen_new=3000, rows=4000, head_dim=128, rotary_dim=128, seqlen_q=64, causal=True),
    ]
    return tuple({case.name: case for case in cases}.values())


def _with_rotation(case: AppendCase, index: int) -> AppendCase:
    whole = case.head_dim // 2 * 2
    return replace(
        case,
        rotary_dim=(whole, max(2, whole // 4 * 2), min(10, whole))[index % 3],
        interleaved=index % 2 == 0,
        own_positions=index % 5 == 0,
    )


def _attended(case: AppendCase, index: int) -> AppendCase:
    return replace(
        case,
        seqlen_q=(1, 5, 70)[index % 3],
        packed_q=index % 4 == 1,
        causal=index % 2 == 0,
        window=(20, 5) if index % 5 == 1 else (-1, -1),
        leftpad=index % 3 == 2,
    )


def _draw(draw: random.Random) -> AppendCase:
    heads_kv = draw.choice([1, 2, 3])
    page_size = draw.choice([0, 0, 1, 2, 3, 5, 16, 64, 100])
    head_dim = draw.choice([8, 32, 40, 59, 64, 80, 96, 111, 128, 192, 256])
    attends = draw.random() < 0.5
    seqlen_new = draw.choice([0, 1, 1, 2, 3, 8, 33, 129])
    return AppendCase(
        dtype=draw.choice(DTYPES),
        batch=draw.choice([1, 2, 3, 5, 17]),
        seqlen_new=seqlen_new,
        rows=seqlen_new + draw.choice([1, 4, 63, 128, 500]),
        heads=heads_kv * draw.choice([1, 2, 4]),
        heads_kv=heads_kv,
        head_dim=head_dim,
        page_size=page_size,
        packed=draw.random() < 0.4,
        entries=not page_size and draw.random() < 0.4,
        leftpad=attends and draw.random() < 0.3,
        rotary_dim=draw.choice([0, 2, min(16, head_dim), head_dim // 2 * 2]),
        interleaved=draw.random() < 0.5,
        own_positions=draw.random() < 0.3,
        layout="contiguous" if attends else draw.choice(LAYOUTS),
        lengths=draw.choice(LENGTHS[: 2 if attends else 3]),
        seqlen_q=draw.choice([1, 2, 17, 130]) if attends else 0,
        packed_q=attends and draw.random() < 0.4,
        causal=draw.random() < 0.5,
        window=draw.choice([(-1, -1), (-1, -1), (30, 0), (7, 9)]),
        seed=draw.randrange(1 << 30),
    )
