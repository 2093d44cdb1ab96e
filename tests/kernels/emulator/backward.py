"""Calls of the emulated backward kernels, and the float64 reference of their results."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tests.kernels.emulator.attention import Case, fill, new_store, rows_of, visible_keys
from tests.kernels.emulator.elements import NAN, decode, encode, unit
from tests.kernels.host.fake_driver import BwdParams, BwdWorkspace, LseOperand

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tests.kernels.emulator.attention import Store
    from tests.kernels.emulator.emulator import Kernel

_LOG2_E = math.log2(math.e)


@dataclass(frozen=True)
class BackwardCase:
    """One call.

    Attributes:
        case: Sequences, heads, mask and scores.
        unused: Rows behind the used ones of each sequence, of queries and keys (seqused beside cu_seqlens).
        tail: Rows behind the last sequence of a packed tensor.
        lse_gradient: The caller has a gradient of the LSE.
        ordered: Additions to dq take turns.
    """

    case: Case
    unused: int = 0
    tail: int = 0
    lse_gradient: bool = False
    ordered: bool = False


@dataclass(frozen=True)
class Kernels:
    """The launches of a call, in order."""

    prepare: Kernel
    main: Kernel
    finish: Kernel


@dataclass(frozen=True)
class Gradients:
    """Of each sequence, rows by heads by columns, as 16-bit patterns; dsink in fp32."""

    dq: list[NDArray[np.uint16]]
    dk: list[NDArray[np.uint16]]
    dv: list[NDArray[np.uint16]]
    dsink: NDArray[np.float32] | None


@dataclass(frozen=True)
class _Truth:
    """Of one sequence, in float64: values, and the sizes of their roundings."""

    out: NDArray[np.float64]
    lse: NDArray[np.float64]
    gradients: dict[str, NDArray[np.float64]]
    sizes: dict[str, NDArray[np.float64]]
    dsink: NDArray[np.float64]


class Backward:
    """The tensors of a case. `run` launches the kernels, `check` compares their results."""

    def __init__(self, kernels: Kernels, call: BackwardCase) -> None:
        self.kernels, self.call, self.case = kernels, call, call.case
        case, variant = call.case, kernels.main.variant
        self.dtype = variant.dtype_in
        draw = np.random.default_rng(case.seed)
        self.head_dim = case.head_dim or variant.head_dim
        self.head_dim_v = case.head_dim_v or variant.head_dim_v
        self.packed = case.form == "packed"
        self.slots_q, self.slots_k = (self._slots(n) for n in (case.lengths_q, case.lengths_k))
        self.stores = {
            "q": self._store("q", case.heads, self.head_dim),
            "k": self._store("k", case.heads_kv, self.head_dim),
            "v": self._store("k", case.heads_kv, self.head_dim_v),
            "out": self._store("q", case.heads, self.head_dim_v),
            "dout": self._store("q", case.heads, self.head_dim_v),
        }
        columns = {"q": self.head_dim, "k": self.head_dim, "v": self.head_dim_v, "out": self.head_dim_v}
        columns["dout"] = self.head_dim_v
        self.rows = {
            name: [
                rows[:length]
                for rows, length in zip(
                    rows_of(store, self.slots_k if name in "kv" else self.slots_q, columns[name]),
                    case.lengths_k if name in "kv" else case.lengths_q,
                    strict=True,
                )
            ]
            for name, store in self.stores.items()
        }
        for index, name in enumerate(("q", "k", "v", "dout")):
            fill(self.rows[name], self.dtype, (case.seed, index))
        for rows_k, rows_v, queries in zip(self.rows["k"], self.rows["v"], case.lengths_q, strict=True):
            unseen = ~visible_keys(case, queries, len(rows_k)).any(axis=0)
            rows_k[unseen], rows_v[unseen] = NAN, NAN
        self.sink = draw.standard_normal(case.heads).astype(np.float32) if case.sink else None
        self.dlse = [draw.standard_normal((case.heads, n)).astype(np.float32) for n in case.lengths_q]
        self.truths = [self._truth(index) for index in range(len(case.lengths_q))]
        for rows, truth in zip(self.rows["out"], self.truths, strict=True):
            rows[...] = encode(truth.out.astype(np.float32), self.dtype)

    def _slots(self, lengths: tuple[int, ...]) -> tuple[int, ...]:
        if not self.packed:
            return (max(lengths) + self.call.unused,) * len(lengths)
        return tuple(length + self.call.unused for length in lengths)

    def _store(self, side: str, heads: int, columns: int) -> Store:
        slots = self.slots_q if side == "q" else self.slots_k
        return new_store(
            (*slots, self.call.tail) if self.packed else slots, heads, columns, packed=self.packed
        )

    def _of_rows(self, values: list[NDArray[np.float64]] | list[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Return fp32 numbers of rows as kernels read them: (batch, heads, rows), or (1, heads, total)."""
        heads = self.case.heads
        if not self.packed:
            dense = np.full((len(values), heads, max(self.slots_q)), np.nan, np.float32)
            for i, of_sequence in enumerate(values):
                dense[i, :, : of_sequence.shape[1]] = of_sequence
            return dense
        flat = np.full((1, heads, sum(self.slots_q) + self.call.tail), np.nan, np.float32)
        for start, of_sequence in zip(_starts(self.slots_q), values, strict=False):
            flat[0, :, start : start + of_sequence.shape[1]] = of_sequence
        return flat

    def run(self) -> Gradients:
        """Launch the kernels on poisoned outputs.

        Raises AssertionError if a kernel wrote outside of the gradients, or left a row behind the used ones
        that is not 0.
        """
        case, call, variant = self.case, self.call, self.kernels.main.variant
        batch, heads = len(case.lengths_q), case.heads
        outs = {
            "dq": self._store("q", heads, self.head_dim),
            "dk": self._store("k", case.heads_kv, self.head_dim),
            "dv": self._store("k", case.heads_kv, self.head_dim_v),
        }
        lse = self._of_rows([truth.lse for truth in self.truths])
        dlse = self._of_rows(self.dlse)
        starts_q, starts_k = (np.array(_starts(slots), np.int32) for slots in (self.slots_q, self.slots_k))
        used_q, used_k = (np.array(n, np.int32) for n in (case.lengths_q, case.lengths_k))
        tile_m = variant.tile_m
        # Of packed sequences, callers may give the longest used length.
        longest_q = max(case.lengths_q if self.packed else self.slots_q)
        longest_k = max(case.lengths_k if self.packed else self.slots_k)
        tiles_m = -(-longest_q // tile_m)
        total_q = sum(self.slots_q) + call.tail
        total_k = sum(self.slots_k) + call.tail
        tiles = total_q // tile_m + batch if self.packed else batch * tiles_m
        sums = np.full((heads, tiles, tile_m, variant.head_dim), np.nan, np.float32)
        lse_log2, minus_delta = (np.full((heads, tiles, tile_m), np.nan, np.float32) for _ in range(2))
        partials = np.full((heads, batch * tiles_m), np.nan, np.float32)
        turns = np.full((heads, tiles), 77, np.uint32)
        dsink = np.full(heads, np.nan, np.float32)
        rows = lse.shape[2]
        params = BwdParams(
            **{name: store.operand() for name, store in (self.stores | outs).items()},
            lse=LseOperand(lse.ctypes.data, 0 if self.packed else heads * rows, rows),
            dlse=LseOperand(
                dlse.ctypes.data if call.lse_gradient else 0, 0 if self.packed else heads * rows, rows
            ),
            sink=0 if self.sink is None else self.sink.ctypes.data,
            dsink=dsink.ctypes.data,
            cu_seqlens_q=starts_q.ctypes.data if self.packed else 0,
            cu_seqlens_k=starts_k.ctypes.data if self.packed else 0,
            seqused_q=used_q.ctypes.data,
            seqused_k=used_k.ctypes.data,
            scale_log2=(case.softcap or case.scale) * _LOG2_E,
            softcap_scale=case.scale / case.softcap if case.softcap else 0.0,
            softmax_scale=case.scale,
            window_left=case.window[0],
            window_right=0 if case.causal else case.window[1],
            attention_chunk=case.chunk,
            batch=batch,
            heads_q=heads,
            heads_kv=case.heads_kv,
            head_dim=self.head_dim,
            head_dim_v=self.head_dim_v,
            seqlen_q=longest_q,
            seqlen_k=longest_k,
            workspace=BwdWorkspace(
                dq=sums.ctypes.data,
                lse_log2=lse_log2.ctypes.data,
                minus_delta=minus_delta.ctypes.data,
                sink_partials=partials.ctypes.data,
                turns=turns.ctypes.data if call.ordered else 0,
                tiles=tiles,
                tile_m=tile_m,
                tile_n=variant.tile_n,
                columns_q=variant.head_dim,
                lane_floats=1,
            ),
            total_q=total_q,
            total_k=total_k,
            tiles_m=tiles_m,
            tiles_n=-(-longest_k // variant.tile_n),
            l2_heads=min(3, batch * case.heads_kv),
            tail_blocks=2,
        )
        self.kernels.prepare.launch(params, batch * heads * tiles_m)
        self.kernels.main.launch(params, params.tiles_n * case.heads_kv * batch)
        sink_blocks = heads if case.sink else 0
        self.kernels.finish.launch(params, batch * heads * tiles_m + sink_blocks + params.tail_blocks)
        found = {
            name: self._take(
                store,
                self.slots_q if name == "dq" else self.slots_k,
                case.lengths_q if name == "dq" else case.lengths_k,
                self.head_dim_v if name == "dv" else self.head_dim,
            )
            for name, store in outs.items()
        }
        return Gradients(found["dq"], found["dk"], found["dv"], dsink if case.sink else None)

    def _take(
        self, store: Store, slots: tuple[int, ...], lengths: tuple[int, ...], columns: int
    ) -> list[NDArray[np.uint16]]:
        taken = []
        for rows, length in zip(rows_of(store, slots, columns), lengths, strict=True):
            taken.append(rows[:length].copy())
            assert not rows[length:].any(), "a row behind the used ones is not 0"
            rows[...] = NAN
        if self.packed:
            behind = store.data[0, sum(slots) : sum(slots) + self.call.tail, :, :columns]
            assert not behind.any(), "a row behind the last sequence is not 0"
            behind[...] = NAN
        assert (store.data == NAN).all(), "something was written outside of the gradients"
        return taken

    def check(self, found: Gradients) -> None:
        """Compare gradients with float64. Bound: the roundings of P, dS, out and the element itself."""
        for index, truth in enumerate(self.truths):
            for name in ("dq", "dk", "dv"):
                got = decode(getattr(found, name)[index], self.dtype)
                assert np.isfinite(got).all(), f"sequence {index}: {name} is not finite"
                error = np.abs(got - truth.gradients[name])
                bound = unit(self.dtype) * (np.abs(truth.gradients[name]) + 4 * truth.sizes[name]) + 1e-5
                excess = (error / bound).max(initial=0)
                assert excess <= 1, (
                    f"sequence {index}: {name} is off by {error.max():.2e}, {excess:.2f} bounds"
                )
        if found.dsink is not None:
            true_dsink = sum(truth.dsink for truth in self.truths)
            size = sum(truth.sizes["dsink"] for truth in self.truths)
            error = np.abs(found.dsink - true_dsink)
            assert (error <= unit(self.dtype) * size + 1e-4).all(), f"dsink is off by {error.max():.2e}"

    def _truth(self, index: int) -> _Truth:
        case = self.case
        q, k, v, dout = (decode(self.rows[name][index], self.dtype) for name in ("q", "k", "v", "dout"))
        visible = visible_keys(case, len(q), len(k))
        k, v = (np.where(visible.any(axis=0)[:, None, None], rows, 0.0) for rows in (k, v))
        group = case.heads // case.heads_kv
        gradients = {"dq": np.zeros(q.shape), "dk": np.zeros(k.shape), "dv": np.zeros(v.shape)}
        sizes = {name: np.zeros(values.shape) for name, values in gradients.items()}
        sizes["dsink"] = np.zeros(case.heads)
        out = np.zeros((len(q), case.heads, v.shape[2]))
        lse = np.full((case.heads, len(q)), -np.inf)
        dsink = np.zeros(case.heads)
        for head in range(case.heads):
            kv = head // group
            raw = q[:, head] @ k[:, kv].T * case.scale
            slope = np.ones_like(raw)
            scores = raw
            if case.softcap:
                scores = case.softcap * np.tanh(raw / case.softcap)
                slope = 1 - np.tanh(raw / case.softcap) ** 2
            sink = -np.inf if self.sink is None else np.float64(self.sink[head])
            scores = np.where(visible, scores, -np.inf)
            peak = np.maximum(scores.max(axis=1, initial=-np.inf), sink)
            base = np.where(np.isneginf(peak), 0.0, peak)
            weights = np.exp(scores - base[:, None])
            total = weights.sum(1) + np.exp(sink - base)
            p = weights / np.where(total == 0.0, 1.0, total)[:, None]
            with np.errstate(divide="ignore"):
                lse[head] = base + np.log(total)
            out[:, head] = p @ v[:, kv]
            dp = dout[:, head] @ v[:, kv].T
            dlse = self.dlse[index][head] if self.call.lse_gradient else np.zeros(len(q))
            delta = (out[:, head] * dout[:, head]).sum(1) - dlse
            ds = p * (dp - delta[:, None]) * slope * case.scale
            size = np.abs(dout[:, head]) @ np.abs(v[:, kv]).T
            ds_size = (
                p * (size + np.abs(delta)[:, None] + (p * size).sum(1)[:, None]) * slope * abs(case.scale)
            )
            gradients["dq"][:, head] += ds @ k[:, kv]
            gradients["dk"][:, kv] += ds.T @ q[:, head]
            gradients["dv"][:, kv] += p.T @ dout[:, head]
            sizes["dq"][:, head] += ds_size @ np.abs(k[:, kv])
            sizes["dk"][:, kv] += ds_size.T @ np.abs(q[:, head])
            sizes["dv"][:, kv] += p.T @ np.abs(dout[:, head])
            if self.sink is not None:
                weight = np.exp(sink - lse[head])
                dsink[head] = -(weight * delta).sum()
                sizes["dsink"][head] = 4 * (weight * (np.abs(delta) + (p * size).sum(1))).sum()
        return _Truth(out, lse, gradients, sizes, dsink)


def _starts(slots: tuple[int, ...]) -> list[int]:
    return [0, *np.cumsum(slots).tolist()]
