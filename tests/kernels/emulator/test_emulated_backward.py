"""Sources of the portable backward kernels on the CPU, against float64; mutations of them fail."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.kernels.emulator.attention import Case
from tests.kernels.emulator.backward import Backward, BackwardCase, Kernels

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.kernels.emulator.emulator import Kernel

# Every head dimension, both dtypes, one and two stages, four and eight warps, keys shared by warps and not.
VARIANTS = (
    "bwd_portable_sm80_bf16_d64",
    "bwd_portable_sm86_fp16_d96",
    "bwd_portable_sm90_fp16_d128",
    "bwd_portable_sm89_bf16_d128",
    "bwd_portable_sm100_bf16_d192x128",
    "bwd_portable_sm86_fp16_d192",
    "bwd_portable_sm120_fp16_d256",
    "bwd_portable_sm80_bf16_d64x256",
    "bwd_portable_sm86_bf16_d64x512",
)
CASES = {
    "whole tile": BackwardCase(Case((128,), (128,))),
    "one row": BackwardCase(Case((1,), (1,))),
    "no keys": BackwardCase(Case((65, 3), (0, 40), sink=True)),
    "no queries": BackwardCase(Case((0, 5), (40, 7)), unused=1),
    "more queries than keys": BackwardCase(Case((200,), (70,), causal=True), lse_gradient=True),
    "causal": BackwardCase(Case((130, 128), (197, 300), causal=True)),
    "causal in turns": BackwardCase(Case((130, 128), (197, 300), causal=True), ordered=True),
    "window": BackwardCase(Case((150,), (300,), window=(40, 20)), ordered=True),
    "diagonal": BackwardCase(Case((150,), (160,), window=(0, 0))),
    "chunks": BackwardCase(Case((150,), (310,), window=(-1, 30), chunk=37), ordered=True),
    "softcap": BackwardCase(Case((140,), (140,), causal=True, softcap=5.0, scale=0.5), lse_gradient=True),
    "sink": BackwardCase(Case((70,), (210,), causal=True, sink=True, heads=4), lse_gradient=True),
    "negative scale": BackwardCase(Case((100,), (190,), scale=-0.3, causal=True)),
    "scale 0": BackwardCase(Case((100,), (190,), scale=0.0, causal=True)),
    "large scores": BackwardCase(Case((60,), (190,), scale=4.0)),
    "keys that no query sees": BackwardCase(Case((5, 130), (300, 290), window=(70, 0))),
    "grouped heads": BackwardCase(Case((33,), (190,), heads=6, causal=True, sink=True), ordered=True),
    "lengths": BackwardCase(Case((150, 0, 33), (190, 77, 0), causal=True), unused=9),
    "packed": BackwardCase(
        Case((5, 0, 130, 64, 1), (9, 20, 0, 200, 64), form="packed", causal=True, sink=True), ordered=True
    ),
    "packed, unused": BackwardCase(
        Case((5, 0, 130), (9, 20, 200), form="packed"), unused=70, tail=150, lse_gradient=True
    ),
    "many sequences": BackwardCase(
        Case((1,) * 40, tuple(range(0, 80, 2)), form="packed", heads=1, heads_kv=1)
    ),
    "fewer columns": BackwardCase(Case((40,), (70,), head_dim=8, head_dim_v=24)),
    "odd columns": BackwardCase(Case((40,), (70,), head_dim=33, head_dim_v=59)),
}


@pytest.fixture
def kernels(emulated: Callable[..., Kernel]) -> Callable[..., Kernels]:
    """A function that compiles the launches of a call."""

    def get(name: str) -> Kernels:
        target, dtype = name.split("_")[2:4]
        names = (f"bwd_prepare_{target}_{dtype}", name, f"bwd_finish_{target}_{dtype}")
        return Kernels(*(emulated(each) for each in names))

    return get


@pytest.mark.parametrize("call", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("name", VARIANTS)
def test_named_cases(kernels: Callable[[str], Kernels], name: str, call: BackwardCase):
    backward = Backward(kernels(name), call)
    backward.check(backward.run())
