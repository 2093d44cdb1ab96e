"""Source of the append kernel on the CPU, against a loop over rows in float64; mutations of it fail."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.kernels.emulator.elements import decode, encode, unit
from tests.kernels.emulator.emulator import Change
from tests.kernels.host.fake_driver import AppendParams, Operand, RotaryParams

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from tests.kernels.emulator.emulator import Kernel

    Bits = NDArray[np.uint16]

VARIANTS = {"fp16": "append_sm80_fp16", "bf16": "append_sm80_bf16"}
CANARY = 0x5AC3


@dataclass
class Memory:
    """A tensor of 16-bit elements inside of a larger buffer, which holds canaries."""

    shape: tuple[int, ...]
    shift: int = 0  # elements by which it is not aligned, and its rows are apart
    buffer: Bits = field(init=False)
    view: Bits = field(init=False)

    def __post_init__(self) -> None:
        *outer, heads, columns = self.shape
        padding = 8 if self.shift == 0 else self.shift
        wide = (*(size + 1 for size in outer), heads, columns + padding)
        size = int(np.prod(wide))
        self.buffer = np.full(size + 64, CANARY, np.uint16)
        first = (-self.buffer.ctypes.data // 2) % 8 + 8 + self.shift
        room = self.buffer[first : first + size].reshape(wide)
        self.view = room[tuple(slice(extent) for extent in self.shape)]

    def operand(self, packed: bool = False) -> Operand:
        strides = [stride // 2 for stride in self.view.strides[:-1]]
        return Operand(self.view.ctypes.data, *((0, *strides) if packed else strides))


@dataclass(frozen=True)
class Case:
    """One call. `lengths`: of the cache before; `new`: rows of each sequence."""

    lengths: tuple[int, ...]
    new: tuple[int, ...]
    packed: bool = False
    page_size: int = 0
    rows: int = 24  # that a sequence has room for
    spare: int = 0  # entries of the cache beyond those of the sequences, with an index of entries
    heads: int = 2
    group: int = 3
    head_dim: int = 64
    head_dim_v: int = 64
    rotary_dim: int = 0
    interleaved: bool = True
    advances: bool = True
    positions: int = 40
    own_positions: bool = False
    queries: tuple[int, ...] = ()
    packed_q: bool = False
    shift: int = 0
    dtype: str = "bf16"
    wrong_slots: bool = False
    seed: int = 0


def index(numbers: Any) -> NDArray[np.int32]:
    return np.ascontiguousarray(numbers, dtype=np.int32)


def starts(lengths: tuple[int, ...]) -> NDArray[np.int32]:
    return index(np.concatenate(([0], np.cumsum(lengths))))


def rotate(row: NDArray[np.float64], cosine: Any, sine: Any, interleaved: bool) -> NDArray[np.float64]:
    """Rotate (heads, rotary_dim): complex multiplication of pairs."""
    pairs = row.reshape(row.shape[0], -1, 2) if interleaved else np.stack(np.split(row, 2, axis=1), axis=2)
    turned = (pairs[..., 0] + 1j * pairs[..., 1]) * (cosine + 1j * sine)
    if interleaved:
        return np.stack((turned.real, turned.imag), axis=2).reshape(row.shape)
    return np.concatenate((turned.real, turned.imag), axis=1)


class Call:
    """Memory of a case, the launch, and the comparison with what it should have done."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.draw = np.random.default_rng(case.seed)
        batch = len(case.lengths)
        self.columns = -(-case.rows // case.page_size) if case.page_size else 0
        slots = batch + case.spare if not case.page_size else batch * self.columns + 2
        slot_rows = case.page_size or case.rows
        self.room = self.columns * case.page_size if case.page_size else case.rows
        self.caches = [
            self.random((slots, slot_rows, case.heads, columns))
            for columns in (case.head_dim, case.head_dim_v)
        ]
        self.new = [
            self.sequences(case.new, case.packed, case.heads, columns)
            for columns in (case.head_dim, case.head_dim_v)
        ]
        self.q = self.sequences(case.queries, case.packed_q, case.heads * case.group, case.head_dim)
        self.q_out = Memory(self.q.shape, case.shift)
        self.table = index(self.draw.permutation(slots)[: batch * self.columns].reshape(batch, -1))
        self.entries = index(self.draw.permutation(slots)[:batch])
        if case.wrong_slots:
            self.table[:, :1] = self.draw.choice([-1, slots, 2**31 - 1, -(2**31)], (batch, 1))
            self.entries[0] = slots
        self.cosines, self.sines = (
            encode(
                function(self.draw.uniform(0, 6, (case.positions, case.rotary_dim // 2))).astype(np.float32),
                case.dtype,
            )
            for function in (np.cos, np.sin)
        )
        self.first_positions = index(self.draw.integers(0, max(1, case.positions - 8), batch))

    def random(self, shape: tuple[int, ...]) -> Memory:
        memory = Memory(shape, self.case.shift)
        memory.view[...] = encode(self.draw.standard_normal(shape).astype(np.float32), self.case.dtype)
        return memory

    def sequences(self, lengths: tuple[int, ...], packed: bool, heads: int, columns: int) -> Memory:
        outer = (
            (sum(lengths) + 1,) if packed else (len(lengths), max(lengths, default=0))
        )  # one row behind the last
        return self.random((*outer, heads, columns))

    def launch(self, kernel: Kernel) -> tuple[list[Bits], NDArray[np.int32]]:
        """Launch, and return the buffers of the caches as they were before, and the lengths."""
        case, batch = self.case, len(self.case.lengths)
        lengths, seqlens = index(case.lengths), index(np.full(batch + 1, -7))
        cu_new, cu_q = starts(case.new), starts(case.queries)
        before = [memory.buffer.copy() for memory in self.caches]
        rotates = case.rotary_dim > 0
        rows_new, rows_q = (int(np.prod(memory.shape[:-2])) for memory in (self.new[0], self.q))
        rotary = RotaryParams(
            *((array.ctypes.data if rotates else 0) for array in (self.cosines, self.sines)),
            *(case.rotary_dim // 2,) * 2,
            self.first_positions.ctypes.data if case.own_positions else 0,
            *(case.positions, case.rotary_dim, case.interleaved, case.advances),
        )
        blocks_new = max(1, -(-rows_new // kernel.variant.tile_m))
        params = AppendParams(
            *(memory.operand(case.packed) for memory in self.new),
            *(memory.operand() for memory in self.caches),
            *(memory.operand(case.packed_q) for memory in (self.q, self.q_out)),
            cu_new.ctypes.data if case.packed else 0,
            cu_q.ctypes.data if case.packed_q else 0,
            lengths.ctypes.data,
            self.entries.ctypes.data if case.spare else 0,
            self.table.ctypes.data if case.page_size else 0,
            seqlens.ctypes.data,
            rotary,
            *(batch, case.heads, case.heads * case.group, case.head_dim, case.head_dim_v),
            *(self.new[0].shape[1], self.q.shape[1], rows_new, rows_q if case.queries else 0),
            *(self.caches[0].shape[0], self.caches[0].shape[1], self.columns, self.columns, blocks_new),
        )
        queries = -(-rows_q // kernel.variant.tile_m) if case.queries else 0
        kernel.launch(params, blocks_new + queries)
        assert seqlens[-1] == -7, "lengths behind the last were written"
        return before, seqlens[:-1]

    def check(self, kernel: Kernel) -> None:
        case = self.case
        before, seqlens = self.launch(kernel)
        added = case.new if case.packed else (max(case.new, default=0),) * len(case.lengths)
        assert list(seqlens) == [
            min(max(length + count, 0), self.room) for length, count in zip(case.lengths, added, strict=True)
        ]
        after = [memory.buffer.copy() for memory in self.caches]
        for memory, old in zip(self.caches, before, strict=True):
            memory.buffer[:] = old
        rotated = self.write(added)
        for place, wanted in rotated:  # compared here, and made equal for the comparison of bits
            row = self.caches[0].view[place]
            found = row[:, : case.rotary_dim]
            found[...] = after[0][self.elements_of(row)][:, : case.rotary_dim]
            self.compare(found, wanted)
        for memory, found in zip(self.caches, after, strict=True):
            np.testing.assert_array_equal(found, memory.buffer)
        self.check_queries()

    def elements_of(self, row: Bits) -> NDArray[np.int64]:
        """Return where the elements of a row of k_cache lie in its buffer."""
        first = (row.ctypes.data - self.caches[0].buffer.ctypes.data) // 2
        heads, columns = (
            np.arange(size) * (stride // 2) for size, stride in zip(row.shape, row.strides, strict=True)
        )
        return first + heads[:, None] + columns

    def position(self, sequence: int, row: int) -> int | None:
        first = self.first_positions[sequence] if self.case.own_positions else self.case.lengths[sequence]
        position = int(first) + row
        return position if self.case.rotary_dim and 0 <= position < self.case.positions else None

    def write(self, added: tuple[int, ...]) -> list[Any]:
        """Write new rows to the caches, k unrotated; return the places that are rotated, and to what."""
        case, rotated = self.case, []
        slot_rows = self.caches[0].shape[1]
        for sequence, count in enumerate(added):
            for i in range(count):
                row = case.lengths[sequence] + i
                if not 0 <= row < self.room:
                    continue
                slot = sequence
                if case.page_size:
                    slot = int(self.table[sequence, row // slot_rows])
                elif case.spare:
                    slot = int(self.entries[sequence])
                if not 0 <= slot < self.caches[0].shape[0]:
                    continue
                source = (int(starts(case.new)[sequence]) + i,) if case.packed else (sequence, i)
                place = (slot, row % slot_rows)
                for memory, new in zip(self.caches, self.new, strict=True):
                    memory.view[place] = new.view[source]
                position = self.position(sequence, i)
                if position is not None:
                    rotated.append((place, self.rotated(self.new[0].view[source], position)))
        return rotated

    def rotated(self, row: Bits, position: int) -> NDArray[np.float64]:
        values = decode(row[:, : self.case.rotary_dim], self.case.dtype)
        cosine, sine = (decode(table[position], self.case.dtype) for table in (self.cosines, self.sines))
        return rotate(values, cosine, sine, self.case.interleaved)

    def compare(self, found: Bits, wanted: NDArray[np.float64]) -> None:
        error = np.abs(decode(found, self.case.dtype) - wanted)
        assert (error <= unit(self.case.dtype) * np.abs(wanted) + 1e-6).all()

    def check_queries(self) -> None:
        case = self.case
        if not case.queries:
            return
        counts = case.queries if case.packed_q else (max(case.queries),) * len(case.lengths)
        for sequence, count in enumerate(counts):
            for i in range(count):
                at = (int(starts(case.queries)[sequence]) + i,) if case.packed_q else (sequence, i)
                position = self.position(sequence, i if case.advances else 0)
                row, found = self.q.view[at], self.q_out.view[at]
                columns = 0 if position is None else case.rotary_dim
                np.testing.assert_array_equal(found[:, columns:], row[:, columns:])
                if position is not None:
                    self.compare(found[:, :columns], self.rotated(row, position))
        if case.packed_q:  # the row behind the last sequence
            np.testing.assert_array_equal(self.q_out.view[-1], self.q.view[-1])
        self.q_out.view[...] = CANARY
        assert (self.q_out.buffer == CANARY).all(), "something was written outside of the rotated queries"


FORMS = {
    "dense": {},
    "index of entries": {"spare": 2},
    "pages of 1": {"page_size": 1},
    "pages of 3": {"page_size": 3},
    "pages of 16": {"page_size": 16},
    "pages of 64": {"page_size": 64},
}
LENGTHS = {
    "one row": {"lengths": (5, 0, 11), "new": (1, 1, 1)},
    "many rows": {"lengths": (3, 17, 0), "new": (7, 7, 7)},
    "no row": {"lengths": (3, 4), "new": (0, 0)},
    "packed": {"lengths": (5, 0, 11, 2), "new": (3, 0, 1, 6), "packed": True},
    "no room": {"lengths": (20, 500, -3, 2**31 - 2), "new": (7, 7, 7, 7), "rows": 22},
}
ROTARIES = {
    "none": {},
    "interleaved": {"rotary_dim": 64, "queries": (3, 3, 3, 3)},
    "halves": {"rotary_dim": 64, "interleaved": False, "queries": (1, 5, 0, 2), "packed_q": True},
    "some columns": {"rotary_dim": 32, "interleaved": False, "own_positions": True, "queries": (2,) * 4},
    "columns of no chunk": {"rotary_dim": 10, "advances": False, "queries": (2,) * 4},
    "halves of no chunk": {"rotary_dim": 24, "interleaved": False, "positions": 11},
}


def cut(options: dict[str, Any]) -> dict[str, Any]:
    """Give every sequence its queries, and none to others."""
    queries = options.get("queries", ())
    return options | {"queries": queries[: len(options["lengths"])]}


@pytest.mark.parametrize("rotary", ROTARIES)
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", VARIANTS)
def test_new_rows_are_written(
    emulated: Callable[..., Kernel], dtype: str, form: str, lengths: str, rotary: str
):
    options = cut({"dtype": dtype, **FORMS[form], **LENGTHS[lengths], **ROTARIES[rotary]})
    for shift, head_dim_v in ((0, 64), (1, 64), (0, 24), (0, 33)):
        Call(Case(**options, shift=shift, head_dim_v=head_dim_v)).check(emulated(VARIANTS[dtype]))


@pytest.mark.parametrize("form", FORMS)
def test_rows_of_pages_and_entries_that_do_not_exist_are_dropped(emulated: Callable[..., Kernel], form: str):
    case = Case(lengths=(0, 2), new=(4, 4), wrong_slots=True, rotary_dim=16, **FORMS[form])
    Call(case).check(emulated(VARIANTS["bf16"]))


def random_case(seed: int) -> Case:
    draw = np.random.default_rng(seed)
    batch = int(draw.integers(1, 6))
    packed, packed_q = (bool(draw.integers(2)) for _ in range(2))
    page_size = int(draw.choice([0, 1, 3, 16, 64]))
    new = tuple(int(n) for n in (draw.integers(0, 9, batch) if packed else [draw.integers(0, 9)] * batch))
    head_dim = int(draw.choice([8, 32, 59, 64, 80]))
    rotary_dim = int(draw.choice([0, 2, 8, 16, head_dim // 2 * 2]))
    queries = tuple(
        int(n) for n in (draw.integers(0, 4, batch) if packed_q else [draw.integers(1, 4)] * batch)
    )
    return Case(
        lengths=tuple(int(n) for n in draw.integers(-2, 30, batch)),
        new=new,
        packed=packed,
        page_size=page_size,
        rows=int(draw.integers(1, 30)),
        spare=0 if page_size else int(draw.integers(0, 3)),
        heads=int(draw.integers(1, 4)),
        group=int(draw.integers(1, 4)),
        head_dim=head_dim,
        head_dim_v=int(draw.choice([8, 40, 64, 128])),
        rotary_dim=min(rotary_dim, head_dim // 2 * 2),
        interleaved=bool(draw.integers(2)),
        advances=bool(draw.integers(2)),
        positions=int(draw.integers(1, 40)),
        own_positions=bool(draw.integers(2)),
        queries=queries if rotary_dim else (),
        packed_q=packed_q,
        shift=int(draw.choice([0, 0, 0, 1, 5])),
        dtype=str(draw.choice([*VARIANTS])),
        seed=seed,
    )


@pytest.mark.parametrize("seed", range(100))
def test_random_calls(emulated: Callable[..., Kernel], seed: int):
    case = random_case(seed)
    Call(case).check(emulated(VARIANTS[case.dtype]))


CHANGES = {
    "rows without room written": Change("append.cu", "row >= room_of(p)", "row > room_of(p)"),
    "negative rows written": Change("append.cu", "row < 0 || row >=", "row >="),
    "pages that do not exist": Change(
        "append.cu", "slot < 0 || slot >= p.slots", "slot < 0 || slot > p.slots"
    ),
    "the first row of a page": Change(
        "append.cu", "row - fa3_i64(column) * p.slot_rows", "row - fa3_i64(column) * (p.slot_rows - 1)"
    ),
    "a sequence too early": Change("append.cu", "cu_seqlens[middle] <= flat", "cu_seqlens[middle] < flat"),
    "rows behind the last sequence": Change(
        "append.cu", "&& flat < cu_seqlens[first + 1]}", "&& flat <= cu_seqlens[first + 1]}"
    ),
    "the other direction": Change("append.cu", "(adds ? sine[i] : -sine[i])", "(adds ? -sine[i] : sine[i])"),
    "positions behind the tables": Change(
        "append.cu", "position < p.rotary.positions ?", "position <= p.rotary.positions ?"
    ),
    "columns behind the rotated": Change(
        "append.cu", "column < rotary->columns", "column <= rotary->columns"
    ),
    "queries that stay": Change("append.cu", "p.rotary.q_advances ? at.row : 0", "0"),
    "lengths beyond the room": Change(
        "append.cu", "min(max(length, fa3_i64(0)), room)", "max(length, fa3_i64(0))"
    ),
    "chunks of unaligned tensors": Change(
        "append.cu", "columns % kChunk == 0 && is_aligned(from) && is_aligned(to)", "columns >= kChunk"
    ),
    "the values of another stride": Change(
        "append.cu", "slot_row * p.v_cache.stride_row", "slot_row * p.k_cache.stride_row"
    ),
}


def check_some(kernel: Kernel) -> None:
    dtype = kernel.variant.dtype_in
    for form in FORMS.values():
        for lengths in LENGTHS.values():
            for rotary in ROTARIES.values():
                options = cut({"dtype": dtype, **form, **lengths, **rotary})
                Call(Case(**options, head_dim_v=33)).check(kernel)
        case = Case(lengths=(0, 2), new=(4, 4), wrong_slots=True, rotary_dim=16, dtype=dtype, **form)
        Call(case).check(kernel)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_mutated_source_fails(emulated: Callable[..., Kernel], change: Change):
    kernel = emulated(VARIANTS["fp16"], change)
    with pytest.raises(AssertionError):
        check_some(kernel)
