"""Forms of a call with sequences of different lengths: packed, padded, in pages."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Form:
    """How the q of one call, and its k and v, are stored.

    Attributes:
        packed_q: one sequence after another, with cu_seqlens_q; else padded.
        used_q: with seqused_q.
        packed_k: one sequence after another, with cu_seqlens_k; else padded, or in pages if there is a
            page_size.
        used_k: with seqused_k.
        shared: every sequence reads the keys of the first one, from the same pages.
    """

    packed_q: bool
    used_q: bool
    packed_k: bool
    used_k: bool
    shared: bool = False


FORMS = {
    "packed": Form(True, False, True, False),
    "packed_used": Form(True, True, True, True),
    "padded": Form(False, True, False, True),
    "padded_k": Form(False, False, False, True),
    "packed_q": Form(True, False, False, True),
    "paged": Form(True, False, False, True),
    "paged_used": Form(True, True, False, True),
    "paged_k": Form(False, False, False, True),
    "paged_shared": Form(True, False, False, True, shared=True),
}
PAGED = tuple(name for name in FORMS if name.startswith("paged"))


def draw_lengths(seed: int, batch: int, longest: int) -> tuple[int, ...]:
    """Return a length for each sequence, some of them 0 and some the longest; the same for the same seed."""
    draw = random.Random(seed)  # noqa: S311  test data, not secrets
    return tuple(
        draw.choice((0, 1, longest, *(draw.randint(0, longest) for _ in range(5)))) if longest else 0
        for _ in range(batch)
    )
