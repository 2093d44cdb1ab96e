"""Calls of an emulated attention kernel, and the float64 reference of their results."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.kernels.emulator.elements import NAN, decode, encode, unit
from tests.kernels.host.fake_driver import FwdParams, LseOperand, Operand

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from kernels.table.variant import Variant
    from tests.kernels.emulator.emulator import Kernel

_LOG2_E = math.log2(math.e)
# Rows of NaN behind the accessible ones: more than a tile has, so that no mutation crashes the process.
_MARGIN = 256


@dataclass(frozen=True)
class Case:
    """One call.

    Attributes:
        lengths_q: Query rows of each sequence.
        lengths_k: Keys of each sequence.
        form: `dense`: a batch with lengths (seqused); `packed`: sequences one after another (cu_seqlens);
            `paged`: packed queries, keys in pages.
        pack: The query heads of a key head share a tile.
        head_dim: Of q and k; 0: the kernel's own. The same for head_dim_v.
    """

    lengths_q: tuple[int, ...]
    lengths_k: tuple[int, ...]
    form: str = "dense"
    heads: int = 2
    heads_kv: int = 2
    head_dim: int = 0
    head_dim_v: int = 0
    page_size: int = 16
    pack: bool = False
    causal: bool = False
    window: tuple[int, int] = (-1, -1)
    chunk: int = 0
    softcap: float = 0.0
    sink: bool = False
    scale: float = 0.125
    seed: int = 1


@dataclass(frozen=True)
class Store:
    """Rows of all sequences in memory, as 16-bit patterns: (batch or page, row, head, column)."""

    data: NDArray[np.uint16]
    packed: bool

    def operand(self) -> Operand:
        batch, row, head, _ = (stride // 2 for stride in self.data.strides)
        return Operand(self.data.ctypes.data, 0 if self.packed else batch, row, head)


def new_store(lengths: tuple[int, ...], heads: int, columns: int, *, packed: bool) -> Store:
    batch, rows = (1, sum(lengths)) if packed else (len(lengths), max(lengths))
    padded = -(-columns // 8) * 8 + 8  # rows start where 16 bytes can be copied
    data = np.full((batch, rows + _MARGIN, heads, padded), NAN, np.uint16)
    return Store(data, packed)


def rows_of(store: Store, lengths: tuple[int, ...], columns: int) -> list[NDArray[np.uint16]]:
    """Return the rows of each sequence, as views."""
    if not store.packed:
        return [store.data[i, :length, :, :columns] for i, length in enumerate(lengths)]
    ends = np.cumsum(lengths)
    return [store.data[0, end - n : end, :, :columns] for end, n in zip(ends, lengths, strict=True)]


def fill(rows: list[NDArray[np.uint16]], dtype: str, seed: tuple[int, int]) -> None:
    """Write random elements, which for a sequence depend on its index and shape alone."""
    for index, row in enumerate(rows):
        draw = np.random.default_rng((*seed, index))
        row[...] = encode(draw.standard_normal(row.shape).astype(np.float32), dtype)


class _Pages:
    """The same keys or values in shuffled pages; NaN in all other rows."""

    def __init__(self, rows: list[NDArray[np.uint16]], case: Case, order: NDArray[np.int32]) -> None:
        heads, columns = rows[0].shape[1:]
        padded = -(-columns // 8) * 8 + 8
        self.store = Store(
            np.full((order.size + 1, case.page_size, heads, padded), NAN, np.uint16), packed=False
        )
        for sequence, pages in zip(rows, order, strict=True):
            for page, start in zip(pages, range(0, len(sequence), case.page_size), strict=False):
                piece = sequence[start : start + case.page_size]
                self.store.data[page, : len(piece), :, :columns] = piece


class Attention:
    """The tensors of a case for one kernel. `run` launches it, `check` compares its results."""

    def __init__(self, variant: Variant, case: Case) -> None:
        self.variant, self.case = variant, case
        draw = np.random.default_rng(case.seed)
        self.head_dim = case.head_dim or variant.head_dim
        self.head_dim_v = case.head_dim_v or variant.head_dim_v
        ragged = case.form != "dense"
        q = new_store(case.lengths_q, case.heads, self.head_dim, packed=ragged)
        k = new_store(case.lengths_k, case.heads_kv, self.head_dim, packed=ragged)
        v = new_store(case.lengths_k, case.heads_kv, self.head_dim_v, packed=ragged)
        self.q_rows = rows_of(q, case.lengths_q, self.head_dim)
        self.k_rows = rows_of(k, case.lengths_k, self.head_dim)
        self.v_rows = rows_of(v, case.lengths_k, self.head_dim_v)
        self.q = q
        fill(self.q_rows, variant.dtype_in, (case.seed, 1))
        self.k = k
        fill(self.k_rows, variant.dtype_in, (case.seed, 2))
        self.v = v
        fill(self.v_rows, variant.dtype_in, (case.seed, 3))
        for rows_k, rows_v, queries in zip(self.k_rows, self.v_rows, case.lengths_q, strict=True):
            unseen = ~visible_keys(case, queries, len(rows_k)).any(axis=0)
            rows_k[unseen], rows_v[unseen] = NAN, NAN
        self.sink = draw.standard_normal(case.heads).astype(np.float32) if case.sink else None
        self.page_table: NDArray[np.int32] | None = None
        if case.form == "paged":
            pages = max(1, -(-max(case.lengths_k) // case.page_size))
            order = draw.permutation(len(case.lengths_k) * pages).astype(np.int32)
            self.page_table = order.reshape(len(case.lengths_k), pages)
            self.k = _Pages(self.k_rows, case, self.page_table).store
            self.v = _Pages(self.v_rows, case, self.page_table).store
            for entries, length_k, queries in zip(
                self.page_table, case.lengths_k, case.lengths_q, strict=True
            ):
                seen = np.zeros(pages * case.page_size, bool)
                seen[:length_k] = visible_keys(case, queries, length_k).any(axis=0)
                entries[~seen.reshape(pages, case.page_size).any(axis=1)] = -1

    def run(self, kernel: Kernel) -> list[tuple[NDArray[np.uint16], NDArray[np.float32]]]:
        """Return out (rows, heads, head_dim_v) in 16-bit patterns and LSE (heads, rows) of each sequence.

        The outputs are surrounded by NaN; raises AssertionError if the kernel overwrote one.
        """
        case = self.case
        packed = case.form != "dense"
        longest_q, longest_k = max(case.lengths_q), max(case.lengths_k)
        out = new_store(case.lengths_q, case.heads, self.head_dim_v, packed=packed)
        lse = np.full((out.data.shape[0], case.heads, out.data.shape[1]), np.nan, np.float32)
        starts_q = np.concatenate(([0], np.cumsum(case.lengths_q))).astype(np.int32)
        starts_k = np.concatenate(([0], np.cumsum(case.lengths_k))).astype(np.int32)
        used_q, used_k = (np.array(n, np.int32) for n in (case.lengths_q, case.lengths_k))
        operands = {
            "q": self.q.operand(),
            "k": self.k.operand(),
            "v": self.v.operand(),
            "out": out.operand(),
            "lse": LseOperand(lse.ctypes.data, 0 if packed else lse.strides[0] // 4, lse.strides[1] // 4),
            "sink": 0 if self.sink is None else self.sink.ctypes.data,
            "cu_seqlens_q": starts_q.ctypes.data if packed else 0,
            "cu_seqlens_k": starts_k.ctypes.data if case.form == "packed" else 0,
            "seqused_q": 0 if packed else used_q.ctypes.data,
            "seqused_k": 0 if case.form == "packed" else used_k.ctypes.data,
            "page_table": 0 if self.page_table is None else self.page_table.ctypes.data,
            "scale_log2": (case.softcap or case.scale) * _LOG2_E,
            "softcap_scale": case.scale / case.softcap if case.softcap else 0.0,
            "window_left": case.window[0],
            "window_right": 0 if case.causal else case.window[1],
            "attention_chunk": case.chunk,
            "batch": len(case.lengths_q),
            "heads_q": case.heads,
            "heads_kv": case.heads_kv,
            "head_dim": self.head_dim,
            "head_dim_v": self.head_dim_v,
            "seqlen_q": longest_q,
            "seqlen_k": longest_k,
            "ragged_q": int(packed),
            "ragged_k": 1,
            "page_size": case.page_size,
            "page_table_stride": 0 if self.page_table is None else self.page_table.shape[1],
        }
        self.launch(kernel, operands)
        rows = rows_of(out, case.lengths_q, self.head_dim_v)
        if packed:
            lse_rows = [lse[0, :, end - n : end] for n, end in zip(used_q, starts_q[1:], strict=True)]
        else:
            lse_rows = [lse[i, :, :n] for i, n in enumerate(used_q)]
        results = [(row.copy(), of_row.copy()) for row, of_row in zip(rows, lse_rows, strict=True)]
        for row, of_row in zip(rows, lse_rows, strict=True):
            row[...], of_row[...] = NAN, np.nan
        assert (out.data == NAN).all(), "something was written outside of out"
        assert np.isnan(lse).all(), "something was written outside of the LSE"
        return results

    def launch(self, kernel: Kernel, operands: dict[str, Any]) -> None:
        """Launch a forward kernel. `operands`: fields of the parameters that do not depend on the kernel."""
        case = self.case
        shared = case.heads // case.heads_kv if case.pack else 1
        slice_columns = self.variant.head_dim_v // self.variant.tail.value_slices
        slices = -(-self.head_dim_v // slice_columns)
        tiles_m = -(-max(case.lengths_q) * shared // self.variant.tile_m)
        units = case.heads // shared * slices
        params = FwdParams(
            **operands,
            pack_gqa=shared,
            pack_shift=shared.bit_length() - 1,
            value_slices=slices,
            tiles_m=tiles_m,
            count=tiles_m * units * len(case.lengths_q),
            l2_heads=min(2, units * len(case.lengths_q)),
        )
        kernel.launch(params, params.count)

    def check(self, results: list[tuple[NDArray[np.uint16], NDArray[np.float32]]]) -> None:
        """Compare results with float64. Bound: the roundings of P and of the element itself."""
        dtype = self.variant.dtype_in
        for index, (bits, lse) in enumerate(results):
            truth = list(self._truth(index))
            got = decode(bits, dtype)
            assert np.isfinite(got).all(), f"sequence {index}: out is not finite"
            for head, (out, size, true_lse) in enumerate(truth):
                error = np.abs(got[:, head] - out)
                bound = unit(dtype) * (np.abs(out) + size) * 1.1 + 1e-6
                where = f"sequence {index}, head {head}"
                assert (error <= bound).all(), f"{where}: out is off by {error.max():.2e}"
                infinite = np.isneginf(true_lse)
                assert (np.isneginf(lse[head]) == infinite).all(), f"{where}: LSE is -inf in the wrong rows"
                off = np.abs(lse[head][~infinite] - true_lse[~infinite])
                assert (off <= 1e-5 * (1 + np.abs(true_lse[~infinite]))).all(), (
                    f"{where}: LSE is off by {off.max():.2e}"
                )

    def _truth(
        self, index: int
    ) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]]:
        """Yield for each head out, out with |v|, and LSE, in float64, from the definition."""
        case, dtype = self.case, self.variant.dtype_in
        q, k, v = (decode(rows[index], dtype) for rows in (self.q_rows, self.k_rows, self.v_rows))
        visible = visible_keys(case, len(q), len(k))
        k, v = (np.where(visible.any(axis=0)[:, None, None], rows, 0.0) for rows in (k, v))
        for head in range(case.heads):
            head_kv = head // (case.heads // case.heads_kv)
            scores = q[:, head] @ k[:, head_kv].T * case.scale
            if case.softcap:
                scores = case.softcap * np.tanh(scores / case.softcap)
            sink = -np.inf if self.sink is None else np.float64(self.sink[head])
            scores = np.where(visible, scores, -np.inf)
            peak = np.maximum(scores.max(axis=1, initial=-np.inf), sink)
            base = np.where(np.isneginf(peak), 0.0, peak)
            weights = np.exp(scores - base[:, None])
            total = weights.sum(1) + np.exp(sink - base)
            shares = weights / np.where(total == 0.0, 1.0, total)[:, None]
            with np.errstate(divide="ignore"):
                lse = base + np.log(total)
            yield shares @ v[:, head_kv], shares @ np.abs(v[:, head_kv]), lse


def visible_keys(case: Case, seqlen_q: int, seqlen_k: int) -> NDArray[np.bool_]:
    """Return the visible keys of each row, (seqlen_q, seqlen_k)."""
    position = np.arange(seqlen_q)[:, None] + seqlen_k - seqlen_q
    key = np.arange(seqlen_k)[None, :]
    left, right = case.window[0], 0 if case.causal else case.window[1]
    visible = np.ones((seqlen_q, seqlen_k), bool)
    if left >= 0:
        visible &= key >= position - left
    if right >= 0:
        visible &= key <= position + right
    if case.chunk:
        visible &= key // case.chunk == position // case.chunk
    return visible
