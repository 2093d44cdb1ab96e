"""Source of the combine kernel on the CPU, against float64; mutations of it fail."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.kernels.emulator.elements import NAN, decode, unit
from tests.kernels.emulator.emulator import Change
from tests.kernels.host.fake_driver import CombineParams, LseOperand, Operand

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.kernels.emulator.emulator import Kernel

VARIANT = "combine_sm80"
OUT_DTYPES = ("fp16", "bf16", "fp32")
SHAPES = ((1, 1, 1, 64), (2, 5, 3, 128), (1, 17, 4, 33), (3, 1, 8, 512), (1, 130, 2, 7), (0, 5, 4, 8))


def check(kernel: Kernel, splits: int, shape: tuple[int, int, int, int], out_dtype: str, shift: int) -> None:
    """Combine random partial results, some without keys and full of NaN. `shift`: columns before a row."""
    batch, seqlen, heads, columns = shape
    draw = np.random.default_rng(splits + columns)
    parts = draw.standard_normal((splits, batch, seqlen, heads, columns + shift)).astype(np.float32)[
        ..., shift:
    ]
    lse_parts = draw.standard_normal((splits, batch, heads, seqlen)).astype(np.float32) * 4
    dead = draw.random(lse_parts.shape) < 0.3
    dead[:, :1, 0, 0] = True  # a row without any key
    lse_parts[dead] = -np.inf
    parts[dead.transpose(0, 1, 3, 2)] = np.nan
    wide = out_dtype == "fp32"
    store = np.full(
        (batch, seqlen + 1, heads, columns + 4), np.nan if wide else NAN, np.float32 if wide else np.uint16
    )
    lse = np.full((batch, heads, seqlen), np.nan, np.float32)
    out_strides = (stride // store.itemsize for stride in store.strides[:3])
    params = CombineParams(
        parts.ctypes.data,
        *(stride // 4 for stride in parts.strides[:4]),
        lse_parts.ctypes.data,
        *(stride // 4 for stride in lse_parts.strides[:3]),
        Operand(store.ctypes.data, *out_strides),
        LseOperand(lse.ctypes.data, *(stride // 4 for stride in lse.strides[:2])),
        *(splits, batch, seqlen, heads, columns),
        OUT_DTYPES.index(out_dtype),
    )
    kernel.launch(params, -(-batch * seqlen * heads // kernel.variant.tile_m))

    weights = np.exp(lse_parts.astype(np.float64))
    total = weights.sum(0)
    shares = (weights / np.where(total == 0.0, 1.0, total)).transpose(0, 1, 3, 2)[..., None]
    values = np.where(dead.transpose(0, 1, 3, 2)[..., None], 0.0, parts)
    truth, size = (shares * values).sum(0), (shares * np.abs(values)).sum(0)
    out = store[:, :seqlen, :, :columns]
    got = out if wide else decode(out, out_dtype)
    rounding = 0.0 if wide else unit(out_dtype)
    assert (np.abs(got - truth) <= rounding * np.abs(truth) + 2e-6 * size + 1e-7).all()
    with np.errstate(divide="ignore"):
        true_lse = np.log(total)
    assert (np.isneginf(lse) == np.isneginf(true_lse)).all()
    finite = np.isfinite(true_lse)
    assert (np.abs(lse[finite] - true_lse[finite]) <= 2e-6 * (1 + np.abs(true_lse[finite]))).all()
    out[...] = np.nan if wide else NAN
    assert (np.isnan(store) if wide else store == NAN).all(), "something was written outside of out"


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("out_dtype", OUT_DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("splits", [1, 2, 33, 256])
def test_partial_results_are_combined(
    emulated: Callable[..., Kernel],
    splits: int,
    shape: tuple[int, int, int, int],
    out_dtype: str,
    shift: int,
):
    check(emulated(VARIANT), splits, shape, out_dtype, shift)


CHANGES = {
    "dead parts read": Change("combine.cu", "if (weight != 0.f) part", "part"),
    "the last splits left out": Change(
        "combine.cu", "split < p.splits; ++split, from", "split < p.splits - 1; ++split, from"
    ),
    "a row without keys": Change("combine.cu", "peak == -infinity() ? 0.f : peak", "peak"),
    "natural weights": Change(
        "combine.cu", "exp2_approx((own[i] - base) * kLog2E)", "exp2_approx(own[i] - base)"
    ),
}


def check_shapes(kernel: Kernel) -> None:
    for shape in SHAPES[1:5]:
        check(kernel, 33, shape, "bf16", 1)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_mutated_source_fails(emulated: Callable[..., Kernel], change: Change):
    kernel = emulated(VARIANT, change)
    with pytest.raises(AssertionError):
        check_shapes(kernel)
