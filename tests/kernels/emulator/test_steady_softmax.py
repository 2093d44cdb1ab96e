"""SteadySoftmax on the CPU, in the order of fwd_sm90's consumer; mutations of it fail."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.build.compile import DEVICE_DIR
from tests.kernels.emulator.elements import unit
from tests.kernels.emulator.emulator import HERE, Change, Program, compile_sources

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

ROWS, KEYS, COLUMNS, LANES = 16, 16, 8, 32
OVERFLOW = 64  # powers of two above the reference at which a block overflows
LARGE = 65536  # magnitude of a reference, in powers of two, at which a row is recomputed with a shift
SCALE_LOG2 = np.float32(0.18)
DTYPES = ("fp16", "bf16")

# Level of a row's scores in every block `b`, in powers of two, with an event in block `at`. A level of +inf
# or NaN applies to one key of the block.
KINDS: dict[str, Callable[[NDArray[np.float64], int], NDArray[np.float64]]] = {
    "ordinary": lambda b, _: 0 * b,
    "slow": lambda b, _: 5 * b,
    "steep": lambda b, _: 35 * b,
    "falling": lambda b, _: -60 * b,
    "high": lambda b, at: np.where(b < at, 0.0, 30.0),
    "overflow": lambda b, at: np.where(b < at, 0.0, 90.0),
    "past fp32": lambda b, at: np.where(b < at, 0.0, 300.0),
    "overflow always": lambda b, _: 150 * b,
    "steep, then overflow": lambda b, at: 30 * b + np.where(b < at, 0.0, 90.0),
    "spike": lambda b, at: np.where(b == at, 90.0, 0.0),
    "last": lambda b, _: np.where(b == b[-1], 90.0, 0.0),
    "huge": lambda b, _: 1e9 + 0 * b,
    "huge and negative": lambda b, _: -3e10 + 0 * b,
    "huge, then ordinary": lambda b, at: np.where(b < at, 1e9, 0.0),
    "ordinary, then huge": lambda b, at: np.where(b < at, 0.0, 1e9),
    "huge, then a step": lambda b, at: np.where(b < at, -1e9, -1e9 + 4096),
    "rising to 2^100": lambda b, _: 2.0 ** np.minimum(20 * b, 100),
    "falling from 2^100": lambda b, _: 2.0 ** np.maximum(100 - 20 * b, 0),
    "falling to -2^100": lambda b, _: -(2.0 ** np.minimum(20 * b, 100)),
    "up to 2^100 and back": lambda b, _: 2.0 ** (100 - 30 * np.minimum(np.abs(b - 3), 3)),
    "unseen": lambda b, _: np.full(b.shape, -np.inf),
    "seen late": lambda b, at: np.where(b < at, -np.inf, 0.0),
    "seen late, steep": lambda b, at: np.where(b < at, -np.inf, 35 * b),
    "seen late, then overflow": lambda b, at: np.where(b < at, -np.inf, 100 * b),
    "infinite": lambda b, at: np.where(b == at, np.inf, 0.0),
    "infinite first": lambda b, _: np.where(b == 0, np.inf, 0.0),
    "not a number": lambda b, at: np.where(b == at, np.nan, 0.0),
    "not a number first": lambda b, _: np.where(b == 0, np.nan, 0.0),
}


class SteadyParams(ctypes.Structure):
    """`SteadyParams` of `steady_softmax.cu`."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("scores", "values", "sinks_log2", "out", "lse", "overflow")),
        ("scale_log2", ctypes.c_float),
        *((name, ctypes.c_int) for name in ("blocks", "masked", "is_fp16", "recompute")),
    )


@dataclass(frozen=True)
class Pass:
    """One pass over a tile: out (16, 8), LSE (16), and of each row whether it or the row 8 off overflowed."""

    out: NDArray[np.float32]
    lse: NDArray[np.float32]
    overflow: NDArray[np.bool_]


@dataclass(frozen=True)
class Tile:
    """Scores (blocks, 16, 16), each row of one of KINDS, and values.

    `masked`: number of first blocks in which a row may have no visible key. `sink`: its level.
    """

    kinds: tuple[str, ...]
    dtype: str
    blocks: int = 8
    masked: int = 4
    sink: float | None = None
    seed: int = 0

    def levels(self) -> NDArray[np.float64]:
        """Return the level of every row in every block: (blocks, 16)."""
        draw = np.random.default_rng(self.seed)
        block = np.arange(self.blocks, dtype=np.float64)
        return np.stack([KINDS[kind](block, int(draw.integers(1, 8))) for kind in self.kinds], axis=1)

    def scores(self) -> NDArray[np.float32]:
        draw = np.random.default_rng(self.seed + 1)
        noise = draw.standard_normal((self.blocks, ROWS, KEYS)) * 2
        levels = self.levels()[:, :, None]
        lone = np.isnan(levels) | np.isposinf(levels)
        scores = noise + np.where(lone, 0.0, levels)
        hidden = draw.random(scores.shape) < 0.3
        hidden[:, :, 5] = False
        scores[hidden] = -np.inf
        scores[:, :, 9:10] = np.where(lone, levels, scores[:, :, 9:10])
        return (scores / SCALE_LOG2).astype(np.float32)

    def values(self) -> NDArray[np.float32]:
        draw = np.random.default_rng(self.seed + 2)
        return draw.standard_normal((self.blocks, KEYS, COLUMNS)).astype(np.float32)

    def sinks_log2(self) -> NDArray[np.float32]:
        if self.sink is None:
            return np.full(ROWS, -np.inf, np.float32)
        return (self.sink + np.arange(ROWS) / 4).astype(np.float32)

    def overflows(self) -> NDArray[np.bool_]:
        """Return for each row whether it must be recomputed.

        Either a block lies too far above all blocks before it, or the row's first visible key lies in a block
        that is not masked, or the first visible block is large.
        """
        levels = np.nan_to_num(self.levels(), nan=0.0, posinf=np.inf, neginf=-np.inf)
        with np.errstate(invalid="ignore"):  # inf - inf
            rise = levels[1:] - np.maximum.accumulate(levels)[:-1]
        unseen = np.isneginf(levels).cumprod(axis=0, dtype=bool)[:-1]
        steps = np.arange(1, self.blocks)[:, None]
        first = levels[np.isneginf(levels).argmin(axis=0), np.arange(ROWS)]
        large = (np.abs(first) >= LARGE) & ~np.isneginf(first)
        return large | np.where(unseen, steps >= self.masked, rise > OVERFLOW).any(axis=0)

    def run(self, program: Program, *, recompute: bool) -> Pass:
        scores, values, sinks_log2 = self.scores(), self.values(), self.sinks_log2()
        out = np.full((ROWS, COLUMNS), 7e7, np.float32)
        lse = np.full(ROWS, 7e7, np.float32)
        overflow = np.full(LANES, 2, np.uint8)
        params = SteadyParams(
            *(array.ctypes.data for array in (scores, values, sinks_log2, out, lse, overflow)),
            SCALE_LOG2,
            *(self.blocks, self.masked, self.dtype == "fp16", recompute),
        )
        program.launch(params, 1)
        pairs = overflow.reshape(ROWS // 2, 4).any(axis=1)
        return Pass(out, lse, np.tile(pairs, 2))

    def check(self, program: Program) -> None:
        """Check both passes against the guarantees in the header."""
        first, second = (self.run(program, recompute=recompute) for recompute in (False, True))
        overflows = self.overflows()
        assert (first.overflow == (overflows | np.roll(overflows, ROWS // 2))).all(), "wrong overflow flags"
        assert not second.overflow.any(), "overflow in the second pass"
        self._check_result(second)
        for one, other in ((first.out, second.out), (first.lse, second.lse)):
            assert np.array_equal(one[~overflows], other[~overflows], equal_nan=True), "the passes differ"

    def _check_result(self, got: Pass) -> None:
        scaled = self.scores().astype(np.float64) * np.float64(SCALE_LOG2)
        scaled = scaled.transpose(1, 0, 2).reshape(ROWS, -1)
        values = self.values().astype(np.float64).reshape(-1, COLUMNS)
        sinks_log2 = self.sinks_log2().astype(np.float64)
        wrong = (np.isnan(scaled) | np.isposinf(scaled)).any(axis=1)
        assert np.isnan(got.out[wrong]).all()
        assert np.isnan(got.lse[wrong]).all()
        scaled[wrong] = 0.0

        peak = np.maximum(scaled.max(axis=1), sinks_log2)
        base = np.where(np.isneginf(peak), 0.0, peak)
        weights = np.exp2(scaled - base[:, None])
        total = weights.sum(axis=1) + np.exp2(sinks_log2 - base)
        weights /= np.where(total == 0.0, 1.0, total)[:, None]
        with np.errstate(divide="ignore"):
            lse = (base + np.log2(total)) * np.log(2.0)
        finite = np.isfinite(scaled)
        # Scaled scores and references have the relative precision of fp32. Large ones are shifted.
        largest = np.abs(np.where(finite, scaled, 0.0)).max(axis=1, keepdims=True)
        rough = 2.0**-22 * (1.0 + np.minimum(largest, LARGE))
        vanished = {"fp16": 2.0**-24, "bf16": 0.0}[self.dtype] * np.abs(values).sum(axis=0)
        error = np.abs(got.out - weights @ values)
        bound = (unit(self.dtype) + rough) * (weights @ np.abs(values)) + vanished + 1e-30
        assert (error <= bound)[~wrong].all(), "out is wrong"
        empty = ~wrong & np.isneginf(lse)
        assert (got.lse[empty] == -np.inf).all()
        assert (got.out[empty] == 0.0).all()
        seen = ~wrong & ~empty
        bound = 2 * rough[seen, 0] + 2.0**-22 * np.abs(lse[seen])
        assert (np.abs(got.lse[seen] - lse[seen]) <= bound).all(), "the LSE is wrong"


def mixed(seed: int, dtype: str, sink: float | None = None) -> Tile:
    """A tile of sixteen different kinds of rows."""
    draw = np.random.default_rng(seed)
    kinds = tuple(str(kind) for kind in draw.choice(list(KINDS), ROWS, replace=False))
    return Tile(kinds, dtype, sink=sink, seed=seed)


TILES = {
    **{f"{kind}, {dtype}": Tile((kind,) * ROWS, dtype) for kind in KINDS for dtype in DTYPES},
    **{
        f"{kind} throughout masks, {dtype}": Tile((kind,) * ROWS, dtype, masked=8)
        for kind in KINDS
        if kind.startswith(("unseen", "seen"))
        for dtype in DTYPES
    },
    **{f"mixed {seed}, {dtype}": mixed(seed, dtype) for seed in range(4) for dtype in DTYPES},
    **{
        f"sink {sink:g}, {dtype}": mixed(9, dtype, sink)
        for sink in (3.0, 40.0, 200.0, 600.0)
        for dtype in DTYPES
    },
}


@pytest.fixture(scope="session")
def steady(
    tmp_path_factory: pytest.TempPathFactory, compiler_cache: Path
) -> Callable[[Change | None], Program]:
    """A function that compiles the headers, with an optional change."""

    @cache
    def get(change: Change | None) -> Program:
        library = compile_sources(
            (
                HERE / "steady_softmax.cu",
                *(DEVICE_DIR / f"parts/{name}.cuh" for name in ("steady_softmax", "softmax", "math", "warp")),
            ),
            {"SOURCE": '"steady_softmax.cu"', "PARAMS": "fa3::SteadyParams", "FA3_KERNEL": "steady_softmax"},
            *(tmp_path_factory.mktemp("steady"), compiler_cache, change),
        )
        return Program("steady_softmax", library, LANES, ROWS * KEYS * 4)

    return get


@pytest.mark.parametrize("tile", TILES.values(), ids=TILES.keys())
def test_named_tiles(steady: Callable[[Change | None], Program], tile: Tile):
    tile.check(steady(None))


@settings(deadline=None)
@given(
    tile=st.builds(
        Tile,
        kinds=st.tuples(*(st.sampled_from(list(KINDS)),) * ROWS),
        dtype=st.sampled_from(DTYPES),
        blocks=st.integers(1, 10),
        masked=st.integers(1, 10),
        sink=st.sampled_from((None, 0.0, 60.0, 300.0)),
        seed=st.integers(0, 2**32),
    )
)
def test_sampled_tiles(steady: Callable[[Change | None], Program], tile: Tile):
    tile.check(steady(None))


def steady_change(old: str, new: str) -> Change:
    return Change("steady_softmax.cuh", old, new)


MOST = "fmaxf(block_sum[0], block_sum[1])"
RAISED, LOWERED = "reference[row] += float(exponent - 127);", "row_sum[row] *= factor[row];"
REPLACED = "reference[row] = shifts ? 0.f : peak;"
SHIFTED = "shift[row] = shifts ? top : shift[row];"
REPLACES = "if (quad_max(sum) > kOverflowAbove || lacks)"
CHANGES = {
    "raise too late": steady_change("kRaiseAbove = 8192.f", "kRaiseAbove = 1048576.f"),
    "overflow too late": steady_change("kOverflowAbove = 18446744073709551616.f", "kOverflowAbove = 3e38f"),
    "references always set": steady_change("reference[row] == -infinity() ? peak : reference[row]", "peak"),
    "block's sum kept": steady_change("block_sum[row] = 0.f;", ""),
    "sum of one block": steady_change("row_sum[row] += block_sum[row];", "row_sum[row] = block_sum[row];"),
    "no row lacks a reference": steady_change("fminf(reference[0], reference[1]) == -infinity()", "false"),
    "both rows must lack a reference": steady_change("fminf(reference[0]", "fmaxf(reference[0]"),
    "no raise": steady_change(f"{MOST} > kRaiseAbove", "false"),
    "raise for one row only": steady_change(f"{MOST} > kRaiseAbove", "block_sum[0] > kRaiseAbove"),
    "no overflow": steady_change(f"{MOST} > kOverflowAbove", "false"),
    "overflow of one row only": steady_change(f"{MOST} > kOverflowAbove", "block_sum[1] > kOverflowAbove"),
    "overflow not returned": steady_change("return has_overflowed();", "return false;"),
    "every row raised": steady_change("most > kRaiseAbove ?", "true ?"),
    "raised by one lane's share": steady_change("= quad_max(block_sum[row]);", "= block_sum[row];"),
    "lowered too far": steady_change("(254 - exponent)", "(253 - exponent)"),
    "reference raised too far": steady_change("float(exponent - 127)", "float(exponent - 126)"),
    "reference not raised": steady_change(RAISED, ""),
    "pending factor lost": steady_change("factor[row] *= result.factor;", "factor[row] = result.factor;"),
    "sum not lowered": steady_change(f"{RAISED}\n            {LOWERED}", RAISED),
    "every reference replaced": steady_change(REPLACES, "if (peak != -infinity())"),
    "no overflowed reference replaced": steady_change(REPLACES, "if (lacks)"),
    "no missing reference replaced": steady_change(REPLACES, "if (quad_max(sum) > kOverflowAbove && !lacks)"),
    "replaced in one lane": steady_change(REPLACES, "if (sum > kOverflowAbove || lacks)"),
    "half of a sum": steady_change(
        "sum += exp2_approx(fmaf(s[i + 1] - shift[row], scale_log2, -offset));", ""
    ),
    "no reference is large": steady_change("fabsf(reference) >= limit", "false"),
    "large references not reported": steady_change("exceeds(reference[0], kLargeReference)", "false"),
    "no reference is large and negative": steady_change("fabsf(reference) >= limit", "reference >= limit"),
    "a row without keys is large": steady_change(" && reference != -infinity()", ""),
    "shift kept": steady_change(SHIFTED, ""),
    "shift not subtracted": steady_change("subtract_from_row(s, row, shift[row]);", ""),
    "shift missing from the peak": steady_change("(top - shift[row]) * scale_log2", "top * scale_log2"),
    "shift missing from the LSE": steady_change("+= shift[row] * scale_log2", "+= 0.f"),
    "factor not set": steady_change("factor[row] = lacks ? 1.f : exp2_approx(reference[row] - peak);", ""),
    "replaced, sum not lowered": steady_change(f"{LOWERED}\n                bool", "bool"),
    "replaced, reference kept": steady_change(REPLACED, ""),
    "NaN without a key": steady_change(
        "reference[row] == -infinity() ? 0.f : reference[row]", "reference[row]"
    ),
    "sink missing from the sum": Change(
        "softmax.cuh", "quad_sum(row_sum) * keys + sink", "quad_sum(row_sum) * keys"
    ),
    "sink missing from the peak": Change("softmax.cuh", "fmaxf(reference, sink_log2)", "reference"),
    "rows exchanged": Change("softmax.cuh", "factor[(i / 2) % 2]", "factor[1 - (i / 2) % 2]"),
}


def check_named_tiles(program: Program) -> None:
    for tile in TILES.values():
        tile.check(program)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_mutated_header_fails(steady: Callable[[Change | None], Program], change: Change):
    program = steady(change)
    with pytest.raises(AssertionError):  # EmulationError is one
        check_named_tiles(program)
