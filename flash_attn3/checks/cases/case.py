"""A case of attention: plain data, the same on every machine. ``catalogue`` lists the cases that are run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from flash_attn3.checks.cases.forms import FORMS, draw_lengths

DTYPES = ("bf16", "fp16")
CATEGORIES = ("plain", "layout", "ragged", "paged", "values")
"""What a case tests: plain calls, memory layouts, sequences of different lengths, pages, hard values."""
_NO_DEFAULT = object()


@dataclass(frozen=True)
class AttentionCase:
    """One call of attention.

    Attributes:
        dtype: of q, k, v and the output; a name of ``DTYPES``.
        layout: how q, k and v are stored; a name of ``data.layouts``.
        values: what they hold; a name of ``data.values.VALUES``.
        softmax_scale: None for ``head_dim ** -0.5``.
        seed: of the random numbers.
        head_dim_v: None for head_dim.
        window: (left, right), -1 for no limit.
        attention_chunk: 0 for none.
        softcap: 0 for none.
        sink: whether the call has a learnable sink.
        form: ``dense``, or a name of ``forms.FORMS``: sequences of different lengths, of which seqlen_q and
            seqlen_k are then the upper bounds.
        page_size: rows of a page, in forms that have pages.
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
    head_dim_v: int | None = None
    window: tuple[int, int] = (-1, -1)
    attention_chunk: int = 0
    softcap: float = 0.0
    sink: bool = False
    form: str = "dense"
    page_size: int = 0

    @property
    def name(self) -> str:
        """Every field that is not at its default, in one word; reports and their readers rely on it."""
        head_dims = f"{self.head_dim}" + (f"x{self.head_dim_v}" if self.head_dim_v else "")
        parts = [
            f"{self.dtype}_d{head_dims}_{'causal' if self.causal else 'full'}",
            f"b{self.batch}_h{self.heads}x{self.heads_kv}_s{self.seqlen_q}x{self.seqlen_k}",
            self.layout
            if self.form == "dense"
            else self.form + (f"{self.page_size}" if self.page_size else ""),
            self.values,
        ]
        if self.window != (-1, -1):
            parts.append("window{}to{}".format(*("all" if limit < 0 else limit for limit in self.window)))
        if self.attention_chunk:
            parts.append(f"chunk{self.attention_chunk}")
        if self.softcap:
            parts.append(f"softcap{self.softcap:g}")
        if self.sink:
            parts.append("sink")
        if self.softmax_scale is not None:
            parts.append(f"scale{self.softmax_scale:g}")
        if self.seed:
            parts.append(f"seed{self.seed}")
        return "-".join(parts)

    @property
    def category(self) -> str:
        """One of ``CATEGORIES``: the last of them that applies."""
        if self.values != "normal":
            return "values"
        if self.form != "dense":
            return "paged" if self.page_size else "ragged"
        return "plain" if self.layout == "contiguous" else "layout"

    @property
    def scale(self) -> float:
        """The softmax_scale that is applied."""
        return self.head_dim**-0.5 if self.softmax_scale is None else self.softmax_scale

    def lengths(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the lengths of q and of k for each sequence."""
        if self.form == "dense":
            return (self.seqlen_q,) * self.batch, (self.seqlen_k,) * self.batch
        form = FORMS[self.form]
        lengths_q = draw_lengths(2 * self.seed, self.batch, self.seqlen_q)
        if not (form.packed_q or form.used_q):
            lengths_q = (self.seqlen_q,) * self.batch
        return lengths_q, draw_lengths(2 * self.seed + 1, self.batch, self.seqlen_k)

    def unseen_keys(self) -> tuple[int, ...]:
        """Return for each sequence the number of its first keys that no query sees.

        The last query lies at the last key, so it is the window or the chunk of the first query that begins
        with the first key that any query sees. A sequence without queries sees none.
        """
        return tuple(map(self._unseen_keys, *self.lengths()))

    def _unseen_keys(self, length_q: int, length_k: int) -> int:
        if length_q == 0:
            return length_k
        first = length_k - length_q
        begin = 0
        if self.window[0] >= 0:
            begin = max(begin, first - self.window[0])
        if self.attention_chunk:
            begin = max(begin, first // self.attention_chunk * self.attention_chunk)
        return begin

    def options(self) -> dict[str, Any]:
        """Return the options of the call that are not tensors and differ from their defaults."""
        options = {
            "window_size": self.window,
            "attention_chunk": self.attention_chunk,
            "softcap": self.softcap,
        }
        return {name: value for name, value in options.items() if value not in (0, (-1, -1))}

    def params(self) -> dict[str, Any]:
        """Return the case as plain data: the fields without a default, and those that differ from theirs."""
        return {
            name: value
            for name, value in asdict(self).items()
            if value != getattr(type(self), name, _NO_DEFAULT)
        }
