"""Inputs of a case of appending, and the call, which is given a fresh copy of the cache each time."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from flash_attn3 import flash_attn_append_kvcache, flash_attn_with_kvcache
from flash_attn3.checks.data.inputs import DTYPES

if TYPE_CHECKING:
    from collections.abc import Callable

    from flash_attn3.checks.cases.append import AppendCase

_TABLE_ROWS = 37  # less than the positions of some cases, which are then not rotated
_SPARE = 2  # pages or entries that no sequence has
_GUARD = 1 << 15  # elements on each side of a cache
_CANARY = 0x5AC3
_NO_SLOTS = (-1, 1 << 30, -(1 << 31))


@dataclass(frozen=True)
class CacheMemory:
    """A cache between canaries. Rows that no sequence uses are NaN.

    Attributes:
        buffer: int16, all of the memory.
        shape: of the cache.
        strides: of the cache, in elements.
        offset: of its first element in the buffer.
    """

    buffer: Tensor
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    dtype: torch.dtype

    @classmethod
    def make(
        cls, shape: tuple[int, ...], layout: str, dtype: torch.dtype, device: torch.device
    ) -> CacheMemory:
        """Return a cache full of NaN; ``layout`` says how it lies."""
        slots, rows, heads, columns = shape
        apart = {"contiguous": (0, 0), "padded": (1, 8), "misaligned": (1, 3)}[layout]
        row = (heads + apart[0]) * (columns + apart[1])
        strides = ((rows + apart[0]) * row, row, columns + apart[1], 1)
        offset = _GUARD + (3 if layout == "misaligned" else 0)
        size = 2 * _GUARD + slots * strides[0]
        buffer = torch.full((size,), _CANARY, dtype=torch.int16, device=device)
        cache = cls(buffer, shape, strides, offset, dtype)
        cache.view(buffer).fill_(torch.nan)
        return cache

    def view(self, buffer: Tensor) -> Tensor:
        """Return the cache in the buffer, or in a copy of it."""
        return buffer.view(self.dtype).as_strided(self.shape, self.strides, self.offset)


@dataclass(frozen=True)
class Write:
    """A new row that has a place: its indices in k and v, this place, its position in the tables."""

    source: tuple[int, ...]
    slot: int
    row: int
    position: int | None


@dataclass(frozen=True)
class AppendInputs:
    """Tensors of one call.

    Attributes:
        k_cache: before the call, and so is v_cache.
        k: as the caller passes it, and so are v and q, which is None where the call does not attend.
        options: the other tensors of the call.
        before: lengths, ``cache_seqlens``.
        added: rows of each sequence.
        queries: rows of q of each sequence.
        padding: first rows of each sequence that do not count.
        slots: page or entry of each sequence, by its number.
        first_positions: of the new rows of each sequence.
        tables: cosines and sines; empty without rotation.
    """

    k_cache: CacheMemory
    v_cache: CacheMemory
    k: Tensor
    v: Tensor
    q: Tensor | None
    options: dict[str, Any]
    before: tuple[int, ...]
    added: tuple[int, ...]
    queries: tuple[int, ...]
    padding: tuple[int, ...]
    slots: tuple[tuple[int, ...], ...]
    first_positions: tuple[int, ...]
    tables: tuple[Tensor, ...]
    room: int

    def place(self, sequence: int, row: int) -> tuple[int, int] | None:
        """Return (page or entry, row in it) of a row of a sequence; None if there is none."""
        if not 0 <= row < self.room:
            return None
        slot = self.slots[sequence][row // self.k_cache.shape[1]]
        return (slot, row % self.k_cache.shape[1]) if 0 <= slot < self.k_cache.shape[0] else None

    def position(self, sequence: int, advance: int) -> int | None:
        """Return the position of a row in the tables; None where it is outside."""
        position = self.first_positions[sequence] + advance
        return position if self.tables and 0 <= position < self.tables[0].shape[0] else None

    @cached_property
    def after(self) -> tuple[int, ...]:
        """Lengths after the call."""
        both = zip(self.before, self.added, strict=True)
        return tuple(min(max(length + count, 0), self.room) for length, count in both)

    @cached_property
    def writes(self) -> tuple[Write, ...]:
        """New rows that the call writes."""
        packed, found = self.k.ndim == 3, []
        starts = [0, *accumulate(self.added)]
        for sequence, count in enumerate(self.added):
            for i in range(count):
                place = self.place(sequence, self.before[sequence] + i)
                if place is not None:
                    source = (starts[sequence] + i,) if packed else (sequence, i)
                    found.append(Write(source, *place, self.position(sequence, i)))
        return tuple(found)


def make_inputs(case: AppendCase, device: torch.device) -> AppendInputs:
    """Return the inputs of a case; equal for equal cases."""
    draw = random.Random(case.seed)  # noqa: S311  test data, not secrets
    generator = torch.Generator(device=device).manual_seed(case.seed + 1)
    dtype, head_dim_v = DTYPES[case.dtype], case.head_dim_v or case.head_dim
    added = _draw_counts(case.batch, case.seqlen_new, case.packed, draw)
    before = tuple(_length_before(case, count, draw) for count in added)
    queries = _draw_counts(case.batch, case.seqlen_q, case.packed_q, draw)
    slot_count, slots = _draw_slots(case, draw)
    padding = (0,) * case.batch
    if case.leftpad:
        padding = tuple(draw.randint(0, min(max(length, 0), case.room)) for length in before)
    first_positions = tuple(draw.randint(0, 30) for _ in before) if case.own_positions else before

    def values(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device).to(dtype)

    def of_sequences(
        lengths: tuple[int, ...], packed: bool, longest: int, heads: int, columns: int
    ) -> Tensor:
        outer = (sum(lengths),) if packed else (len(lengths), longest)
        return values(*outer, heads, columns)

    k_cache, v_cache = (
        CacheMemory.make(
            (slot_count, case.page_size or case.rows, case.heads_kv, columns), case.layout, dtype, device
        )
        for columns in (case.head_dim, head_dim_v)
    )
    k, v = (
        _laid_out(of_sequences(added, case.packed, case.seqlen_new, case.heads_kv, columns), case.layout)
        for columns in (case.head_dim, head_dim_v)
    )
    q = None
    if case.seqlen_q:
        q = of_sequences(queries, case.packed_q, case.seqlen_q, case.heads, case.head_dim)
    tables: tuple[Tensor, ...] = ()
    if case.rotary_dim:
        rows = max(_TABLE_ROWS, case.seqlen_new)
        angles = 6 * torch.rand((rows, case.rotary_dim // 2), generator=generator, device=device)
        tables = (torch.cos(angles).to(dtype), torch.sin(angles).to(dtype))
    inputs = AppendInputs(
        k_cache=k_cache,
        v_cache=v_cache,
        k=k,
        v=v,
        q=q,
        options={},
        before=before,
        added=added,
        queries=queries,
        padding=padding,
        slots=slots,
        first_positions=first_positions,
        tables=tables,
        room=case.room,
    )
    _fill_used_rows(inputs, values)
    return replace(inputs, options=_options(case, inputs))


def _options(case: AppendCase, inputs: AppendInputs) -> dict[str, Any]:
    """Return the arguments of the call by name, beside q, the caches, k and v."""
    device = inputs.k.device
    arrays: dict[str, Any] = {"cache_seqlens": inputs.before}
    if case.packed:
        arrays["cu_seqlens_k_new"] = [0, *accumulate(inputs.added)]
    if case.page_size:
        arrays["page_table"] = inputs.slots
    elif case.entries:
        arrays["cache_batch_idx"] = [entry for (entry,) in inputs.slots]
    if case.own_positions and inputs.tables:
        arrays["rotary_seqlens"] = inputs.first_positions
    if case.leftpad:
        arrays["cache_leftpad"] = inputs.padding
    if case.packed_q:
        arrays["cu_seqlens_q"] = [0, *accumulate(inputs.queries)]
    options: dict[str, Any] = {
        name: torch.tensor(array, dtype=torch.int32, device=device) for name, array in arrays.items()
    }
    if inputs.tables:
        options |= {"rotary_cos": inputs.tables[0], "rotary_sin": inputs.tables[1]}
        options["rotary_interleaved"] = case.interleaved
    if case.packed_q:
        options["max_seqlen_q"] = case.seqlen_q
    if case.seqlen_q:
        options |= {"causal": case.causal, "window_size": case.window}
    return options


def _draw_counts(batch: int, most: int, packed: bool, draw: random.Random) -> tuple[int, ...]:
    return tuple(draw.randint(0, most) if packed else most for _ in range(batch))


def _length_before(case: AppendCase, added: int, draw: random.Random) -> int:
    if case.lengths == "full" and draw.random() < 0.6:
        return draw.choice([case.room - added // 2, case.room, case.room + 5, -2, (1 << 31) - 3])
    return draw.randint(0, max(0, case.room - added))


def _draw_slots(case: AppendCase, draw: random.Random) -> tuple[int, tuple[tuple[int, ...], ...]]:
    """Return the number of pages or entries, and those of each sequence."""
    each = case.columns if case.page_size else 1
    count = case.batch * each + (_SPARE if case.page_size or case.entries else 0)
    order = draw.sample(range(count), case.batch * each) if count > case.batch * each else [*range(count)]
    if case.lengths == "missing" and (case.page_size or case.entries):
        order = [draw.choice((*_NO_SLOTS, count)) if draw.random() < 0.4 else slot for slot in order]
    return count, tuple(tuple(order[i * each : (i + 1) * each]) for i in range(case.batch))


def _laid_out(tensor: Tensor, layout: str) -> Tensor:
    """Return new rows contiguous, with room between them, or off alignment."""
    if layout == "contiguous":
        return tensor
    padding = 8 if layout == "padded" else 3
    wide = tensor.new_full((*tensor.shape[:-1], tensor.shape[-1] + padding), torch.nan)
    return wide[..., padding - 8 if padding == 8 else 1 :][..., : tensor.shape[-1]].copy_(tensor)


def _fill_used_rows(inputs: AppendInputs, values: Callable[..., Tensor]) -> None:
    """Give the rows that the sequences have, behind their padding, finite values."""
    places = [
        place
        for sequence, length in enumerate(inputs.before)
        for row in range(inputs.padding[sequence], min(length, inputs.room))
        if (place := inputs.place(sequence, row)) is not None
    ]
    for cache in (inputs.k_cache, inputs.v_cache):
        new = values(len(places), *cache.shape[2:])
        put_rows(cache.view(cache.buffer), places, new)


def put_rows(cache: Tensor, places: list[tuple[int, int]], rows: Tensor) -> None:
    """Write rows to places of a cache."""
    if places:
        slots, numbers = torch.tensor(places, device=cache.device).T
        cache[slots, numbers] = rows


def public_kvcache(
    q: Tensor | None, k_cache: Tensor, v_cache: Tensor, k: Tensor, v: Tensor, **options: Any
) -> tuple[Tensor, ...]:
    """Call the public function that appends: with queries, (out, lse), and else the lengths."""
    if q is None:
        return (flash_attn_append_kvcache(k_cache, v_cache, k, v, **options),)
    out, lse, *_ = flash_attn_with_kvcache(q, k_cache, v_cache, k, v, **options, return_softmax_lse=True)
    return out, lse


def call(
    function: Callable[..., tuple[Tensor, ...]], _case: AppendCase, inputs: AppendInputs, **options: Any
) -> tuple[Tensor, ...]:
    """Call ``function`` on copies of the caches; return their buffers, and then what it returns."""
    buffers = [cache.buffer.clone() for cache in (inputs.k_cache, inputs.v_cache)]
    caches = [
        cache.view(buffer) for cache, buffer in zip((inputs.k_cache, inputs.v_cache), buffers, strict=True)
    ]
    return *buffers, *function(inputs.q, *caches, inputs.k, inputs.v, **inputs.options, **options)
