"""Places sequences of different lengths in memory: packed, padded, in pages.

The values are padded, (batch, seqlen, heads, head_dim); the used rows of each batch item are its first ones.
They are copied to memory that is NaN everywhere else.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flash_attn3.checks.cases.forms import Form

_SPARE_PAGES = 3
# Entries of a page table beyond the last page of a sequence, and before the first that a query sees.
_NO_PAGES = (-1, 1 << 30, -(1 << 31))


@dataclass(frozen=True)
class PlacedSequences:
    """Arguments of a call, and the positions of the padded rows in them.

    Attributes:
        q: as the caller passes it, and so are k and v.
        options: the other arguments of ``flash_attn_varlen_func``: lengths, starts, pages.
        rows_q: (batch, seqlen_q) int64: row in the packed q of each padded row; None if q is padded.
        used_q: (batch, seqlen_q) bool: whether a row is below its sequence's length.
        rows_k: the same of k and v, which are not in pages; and so used_k.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    options: dict[str, Tensor | int]
    rows_q: Tensor | None
    used_q: Tensor
    rows_k: Tensor | None
    used_k: Tensor

    def padded(self, out: Tensor, lse: Tensor) -> tuple[Tensor, Tensor]:
        """Return out (batch, seqlen_q, ...) and lse (batch, heads, seqlen_q); unused rows are 0 and -inf."""
        if self.rows_q is not None:
            out = out[self.rows_q] if out.shape[0] else out.new_zeros(*self.rows_q.shape, *out.shape[1:])
            lse = (
                lse[:, self.rows_q].transpose(0, 1)
                if lse.shape[1]
                else lse.new_zeros(self.rows_q.shape[0], lse.shape[0], self.rows_q.shape[1])
            )
        unused = ~self.used_q
        return out.masked_fill(unused[:, :, None, None], 0.0), lse.masked_fill(unused[:, None], -torch.inf)


def place_sequences(
    form: Form,
    tensors: tuple[Tensor, Tensor, Tensor],
    lengths: tuple[Sequence[int], Sequence[int]],
    *,
    page_size: int,
    seed: int,
    new: Callable[[tuple[int, ...]], Tensor],
    unseen_keys: Sequence[int] = (),
) -> PlacedSequences:
    """Copy the used rows of padded values to memory of a form.

    Args:
        form: how q, k and v are stored.
        tensors: padded q, k, v in the dtype and on the device of the call.
        lengths: of q and of k, for each batch item.
        page_size: rows of a page; 0 for no pages.
        seed: of the order of the pages and of the gaps between sequences.
        new: allocates NaN-filled memory of a shape.
        unseen_keys: of each batch item, the number of first keys whose pages the page table need not name.
    """
    q, k, v = tensors
    draw = random.Random(seed)  # noqa: S311  test data, not secrets
    device = q.device
    options: dict[str, Tensor | int] = {}
    seqlen_q = q.shape[1]
    starts_q, rows_q = _starts(lengths[0], form.used_q, draw), None
    rows_k = None
    if form.packed_q:
        placed_q = _place(q, lengths[0], starts_q, new((starts_q[-1], *q.shape[2:])))
        options |= {"cu_seqlens_q": _index(starts_q, device), "max_seqlen_q": seqlen_q}
        rows_q = _row_numbers(starts_q, lengths[0], seqlen_q).to(device)
    else:
        placed_q = _place_padded(q, lengths[0], new(tuple(q.shape)))
    if form.used_q:
        options["seqused_q"] = _index(lengths[0], device)
    if page_size:
        (placed_k, placed_v), table = _paged((k, v), lengths[1], page_size, form.shared, draw, new)
        for entries, unseen in zip(table, unseen_keys, strict=False):
            entries[: unseen // page_size] = draw.choice(_NO_PAGES)
        options["page_table"] = table.to(device)
    elif form.packed_k:
        starts_k = _starts(lengths[1], form.used_k, draw)
        placed_k, placed_v = (
            _place(x, lengths[1], starts_k, new((starts_k[-1], *x.shape[2:]))) for x in (k, v)
        )
        options |= {"cu_seqlens_k": _index(starts_k, device), "max_seqlen_k": k.shape[1]}
        rows_k = _row_numbers(starts_k, lengths[1], k.shape[1]).to(device)
    else:
        placed_k, placed_v = (_place_padded(x, lengths[1], new(tuple(x.shape))) for x in (k, v))
    if form.used_k:
        options["seqused_k"] = _index(lengths[1], device)
    used_q, used_k = (
        _used(of, seqlen).to(device) for of, seqlen in zip(lengths, (seqlen_q, k.shape[1]), strict=True)
    )
    return PlacedSequences(placed_q, placed_k, placed_v, options, rows_q, used_q, rows_k, used_k)


def _used(lengths: Sequence[int], seqlen: int) -> Tensor:
    """Return which of the padded rows are used, (batch, seqlen)."""
    return torch.arange(seqlen)[None, :] < torch.tensor(list(lengths)).reshape(len(lengths), 1)


def padded_rows(placed: Tensor, rows: Tensor | None, used: Tensor) -> Tensor:
    """Return the used rows of a tensor as (batch, seqlen, heads, columns), 0 in the others.

    Args:
        placed: packed or padded.
        rows: row in the packed tensor of each padded row; None if it is padded.
        used: (batch, seqlen) which padded rows are used.
    """
    if rows is not None:
        placed = placed[rows] if placed.shape[0] else placed.new_zeros(*rows.shape, *placed.shape[1:])
    return placed.masked_fill(~used[:, :, None, None], 0.0)


def unused_rows(placed: Tensor, rows: Tensor | None, used: Tensor) -> Tensor:
    """Return the rows of a tensor that no sequence uses, (rows, heads, columns); arguments as above."""
    if rows is None:
        return placed[~used]
    unused = torch.ones(placed.shape[0], dtype=torch.bool, device=placed.device)
    unused[rows[used]] = False
    return placed[unused]


def _starts(lengths: Sequence[int], gaps: bool, draw: random.Random) -> list[int]:
    """Return the start of each sequence and the end of the last; with ``gaps``, unused rows between them."""
    rooms = [length + (draw.randint(0, 40) if gaps else 0) for length in lengths]
    return [0, *accumulate(rooms)]


def _index(numbers: Sequence[int], device: torch.device) -> Tensor:
    return torch.tensor(list(numbers), dtype=torch.int32, device=device)


def _row_numbers(starts: Sequence[int], lengths: Sequence[int], seqlen: int) -> Tensor:
    """Return the packed row of each padded one; 0, a row of another sequence, for unused ones."""
    row = torch.arange(seqlen)[None, :].expand(len(lengths), -1)
    start, length = (torch.tensor(list(x)).reshape(-1, 1) for x in (starts[:-1], lengths))
    return torch.where(row < length, row + start, 0)


def _flat(lengths: Sequence[int], starts: Sequence[int], device: torch.device) -> Tensor:
    """Return the numbers of the used rows, sequence after sequence."""
    parts = [torch.arange(start, start + length) for start, length in zip(starts, lengths, strict=False)]
    return torch.cat([torch.empty(0, dtype=torch.int64), *parts]).to(device)


def _place(padded: Tensor, lengths: Sequence[int], starts: Sequence[int], target: Tensor) -> Tensor:
    """Copy the used rows of each sequence to its start in ``target``, (rows, heads, head_dim)."""
    seqlen = padded.shape[1]
    source = _flat(lengths, [item * seqlen for item in range(len(lengths))], padded.device)
    target[_flat(lengths, starts, padded.device)] = padded.flatten(0, 1)[source]
    return target


def _place_padded(padded: Tensor, lengths: Sequence[int], target: Tensor) -> Tensor:
    starts = [item * padded.shape[1] for item in range(len(lengths))]
    _place(padded, lengths, starts, target.view(-1, *target.shape[2:]))
    return target


def _paged(  # noqa: PLR0917  one step of `place_sequences`
    tensors: tuple[Tensor, Tensor],
    lengths: Sequence[int],
    page_size: int,
    shared: bool,
    draw: random.Random,
    new: Callable[[tuple[int, ...]], Tensor],
) -> tuple[list[Tensor], Tensor]:
    """Return k and v in pages in random order, and the page table, (batch, columns) int32."""
    held = [max(lengths, default=0)] if shared else list(lengths)
    needed = [-(-length // page_size) for length in held]
    columns = max(1, -(-tensors[0].shape[1] // page_size))
    order = draw.sample(range(sum(needed) + _SPARE_PAGES), sum(needed))
    firsts = [0, *accumulate(needed)]
    rows = [order[first : first + count] for first, count in zip(firsts, needed, strict=False)]
    table = torch.tensor(
        [row + [draw.choice(_NO_PAGES)] * (columns - len(row)) for row in rows], dtype=torch.int32
    )
    if shared:
        table = table.expand(len(lengths), -1).contiguous()
    targets = []
    for padded in tensors:
        target = new((sum(needed) + _SPARE_PAGES, page_size, *padded.shape[2:]))
        flat = target.view(-1, *target.shape[2:])
        numbers = [
            torch.arange(length) % page_size
            + torch.tensor(row or [0])[torch.arange(length) // page_size] * page_size
            for length, row in zip(held, rows, strict=True)
        ]
        seqlen = padded.shape[1]
        source = _flat(held, [item * seqlen for item in range(len(held))], padded.device)
        flat[torch.cat(numbers).to(padded.device)] = padded.flatten(0, 1)[source]
        targets.append(target)
    return targets, table.reshape(len(lengths), columns)
