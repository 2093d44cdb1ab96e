"""The softmax of fwd_sm90.cu on the CPU, driven as that kernel drives it; changes of it are noticed."""

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
OUTRUN = 64  # powers of two by which a block outruns the reference
SCALE_LOG2 = np.float32(0.18)
DTYPES = ("fp16", "bf16")

# How high a row's scores are in every block `b`, in powers of two; something happens in block `at`. A height
# of +inf or NaN is that of one key of the block.
KINDS: dict[str, Callable[[NDArray[np.float64], int], NDArray[np.float64]]] = {
    "ordinary": lambda b, _: 0 * b,
    "slow": lambda b, _: 5 * b,
    "steep": lambda b, _: 35 * b,
    "falling": lambda b, _: -60 * b,
    "high": lambda b, at: np.where(b < at, 0.0, 30.0),
    "outrun": lambda b, at: np.where(b < at, 0.0, 90.0),
    "past fp32": lambda b, at: np.where(b < at, 0.0, 300.0),
    "outrun always": lambda b, _: 150 * b,
    "steep, then outrun": lambda b, at: 30 * b + np.where(b < at, 0.0, 90.0),
    "spike": lambda b, at: np.where(b == at, 90.0, 0.0),
    "last": lambda b, _: np.where(b == b[-1], 90.0, 0.0),
    "unseen": lambda b, _: np.full(b.shape, -np.inf),
    "seen late": lambda b, at: np.where(b < at, -np.inf, 0.0),
    "seen late, steep": lambda b, at: np.where(b < at, -np.inf, 35 * b),
    "seen late, then outrun": lambda b, at: np.where(b < at, -np.inf, 100 * b),
    "infinite": lambda b, at: np.where(b == at, np.inf, 0.0),
    "infinite first": lambda b, _: np.where(b == 0, np.inf, 0.0),
    "not a number": lambda b, at: np.where(b == at, np.nan, 0.0),
    "not a number first": lambda b, _: np.where(b == 0, np.nan, 0.0),
}


class SteadyParams(ctypes.Structure):
    """As `steady_softmax.cu` has them."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("scores", "values", "sinks_log2", "out", "lse", "late")),
        ("scale_log2", ctypes.c_float),
        *((name, ctypes.c_int) for name in ("blocks", "masked", "narrow", "again")),
    )


@dataclass(frozen=True)
class Pass:
    """One time over a tile: out (16, 8), LSE (16), and of each row whether it or the one 8 off was late."""

    out: NDArray[np.float32]
    lse: NDArray[np.float32]
    late: NDArray[np.bool_]


@dataclass(frozen=True)
class Tile:
    """Scores (blocks, 16, 16) with a kind for every row, and values.

    `masked`: blocks, the first ones, in which a row may find nothing that it sees. `sink`: its height.
    """

    kinds: tuple[str, ...]
    dtype: str
    blocks: int = 8
    masked: int = 4
    sink: float | None = None
    seed: int = 0

    def levels(self) -> NDArray[np.float64]:
        """Return the height of every row in every block: (blocks, 16)."""
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

    def outruns(self) -> NDArray[np.bool_]:
        """Return of each row whether it must be computed again.

        Either a block stands too far above all that the row has seen before, or what the row sees first
        comes in a block that is not masked.
        """
        levels = np.nan_to_num(self.levels(), nan=0.0, posinf=np.inf, neginf=-np.inf)
        with np.errstate(invalid="ignore"):  # inf - inf
            rise = levels[1:] - np.maximum.accumulate(levels)[:-1]
        bare = np.isneginf(levels).cumprod(axis=0, dtype=bool)[:-1]
        steps = np.arange(1, self.blocks)[:, None]
        return np.where(bare, steps >= self.masked, rise > OUTRUN).any(axis=0)

    def run(self, program: Program, *, again: bool) -> Pass:
        scores, values, sinks_log2 = self.scores(), self.values(), self.sinks_log2()
        out = np.full((ROWS, COLUMNS), 7e7, np.float32)
        lse = np.full(ROWS, 7e7, np.float32)
        late = np.full(LANES, 2, np.uint8)
        params = SteadyParams(
            *(array.ctypes.data for array in (scores, values, sinks_log2, out, lse, late)),
            SCALE_LOG2,
            *(self.blocks, self.masked, self.dtype == "fp16", again),
        )
        program.launch(params, 1)
        pairs = late.reshape(ROWS // 2, 4).any(axis=1)
        return Pass(out, lse, np.tile(pairs, 2))

    def check(self, program: Program) -> None:
        """Run it twice, and hold both times to what the header promises."""
        first, second = (self.run(program, again=again) for again in (False, True))
        outruns = self.outruns()
        assert (first.late == (outruns | np.roll(outruns, ROWS // 2))).all(), "late at the wrong time"
        assert not second.late.any(), "late in the second pass"
        self._check_result(second)
        for one, other in ((first.out, second.out), (first.lse, second.lse)):
            assert np.array_equal(one[~outruns], other[~outruns], equal_nan=True), "other bits"

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
        # Scaled scores, and with them the references, have the relative precision of fp32.
        rough = 2.0**-22 * (1.0 + np.abs(np.where(finite, scaled, 0.0)).max(axis=1, keepdims=True))
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
    """A tile of all kinds of rows."""
    draw = np.random.default_rng(seed)
    kinds = tuple(str(kind) for kind in draw.choice(list(KINDS), ROWS, replace=False))
    return Tile(kinds, dtype, sink=sink, seed=seed)


TELLING = {
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
    """A function that compiles the headers, changed where a change is given."""

    @cache
    def get(change: Change | None) -> Program:
        library = compile_sources(
            (
                HERE / "steady_softmax.cu",
                DEVICE_DIR / "parts/steady_softmax.cuh",
                DEVICE_DIR / "parts/softmax.cuh",
            ),
            {"SOURCE": '"steady_softmax.cu"', "PARAMS": "fa3::SteadyParams", "FA3_KERNEL": "steady_softmax"},
            *(tmp_path_factory.mktemp("steady"), compiler_cache, change),
        )
        return Program("steady_softmax", library, LANES, ROWS * KEYS * 4)

    return get


@pytest.mark.parametrize("tile", TELLING.values(), ids=TELLING.keys())
def test_telling_tiles(steady: Callable[[Change | None], Program], tile: Tile):
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


HIGH, LATE = "fmaxf(block_sum[0], block_sum[1]) > kHigh", "fmaxf(block_sum[0], block_sum[1]) > kOutrun"
RAISED, LOWERED = "reference[row] += float(exponent - 127);", "row_sum[row] *= factor[row];"
FOLLOWED = "reference[row] = peak;"
FOLLOWS = "if (quad_max(sum) > kOutrun || bare)"
CHANGES = {
    "high too late": steady_change("kHigh = 8192.f", "kHigh = 1048576.f"),
    "outrun too late": steady_change("kOutrun = 18446744073709551616.f", "kOutrun = 3e38f"),
    "adopted always": steady_change("reference[row] == -infinity() ? peak : reference[row]", "peak"),
    "block's sum kept": steady_change("block_sum[row] = 0.f;", ""),
    "sum of one block": steady_change("row_sum[row] += block_sum[row];", "row_sum[row] = block_sum[row];"),
    "never bare": steady_change("fminf(reference[0], reference[1]) == -infinity()", "false"),
    "bare in both rows alone": steady_change("fminf(reference[0]", "fmaxf(reference[0]"),
    "never high": steady_change(HIGH, "false"),
    "high in one row alone": steady_change(HIGH, "block_sum[0] > kHigh"),
    "never late": steady_change(LATE, "false"),
    "late in one row alone": steady_change(LATE, "block_sum[1] > kOutrun"),
    "late in the last block alone": steady_change("return is_late();", "return false;"),
    "every row raised": steady_change("most > kHigh ?", "true ?"),
    "raised by a lane's share": steady_change("= quad_max(block_sum[row]);", "= block_sum[row];"),
    "lowered too far": steady_change("(254 - exponent)", "(253 - exponent)"),
    "reference raised too far": steady_change("float(exponent - 127)", "float(exponent - 126)"),
    "reference not raised": steady_change(RAISED, ""),
    "raised last in vain": steady_change("factor[row] *= end.factor;", "factor[row] = end.factor;"),
    "sum not lowered": steady_change(f"{RAISED}\n            {LOWERED}", RAISED),
    "every row follows": steady_change(FOLLOWS, "if (peak != -infinity())"),
    "no row follows": steady_change(FOLLOWS, "if (bare)"),
    "bare rows do not follow": steady_change(FOLLOWS, "if (quad_max(sum) > kOutrun && !bare)"),
    "a lane follows": steady_change(FOLLOWS, "if (sum > kOutrun || bare)"),
    "half of a sum is followed": steady_change("sum += exp2_approx(s[i + 1] * scale_log2 - offset);", ""),
    "nothing follows": steady_change("factor[row] = bare ? 1.f : exp2_approx(reference[row] - peak);", ""),
    "the sum does not follow": steady_change(f"{LOWERED}\n                {FOLLOWED}", FOLLOWED),
    "the reference does not follow": steady_change(FOLLOWED, ""),
    "no key, no number": steady_change(
        "reference[row] == -infinity() ? 0.f : reference[row]", "reference[row]"
    ),
    "the sink forgotten": Change(
        "softmax.cuh", "quad_sum(row_sum) * keys + sink", "quad_sum(row_sum) * keys"
    ),
    "the sink not a peak": Change("softmax.cuh", "fmaxf(reference, sink_log2)", "reference"),
    "rows exchanged": Change("softmax.cuh", "factor[(i / 2) % 2]", "factor[1 - (i / 2) % 2]"),
}


def check_telling_tiles(program: Program) -> None:
    for tile in TELLING.values():
        tile.check(program)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_changed_header_is_noticed(steady: Callable[[Change | None], Program], change: Change):
    program = steady(change)
    with pytest.raises(AssertionError):  # EmulationError is one
        check_telling_tiles(program)
