"""Calls of an emulated decode kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tests.kernels.emulator.attention import Attention
from tests.kernels.host.fake_driver import DecodeParams, PartialParams

if TYPE_CHECKING:
    from kernels.table.variant import Variant
    from tests.kernels.emulator.attention import Case
    from tests.kernels.emulator.emulator import Kernel

_GUARD = 64  # floats behind the workspace


class Decoding(Attention):
    """The tensors of a case for a decode kernel.

    Attributes:
        blocks: Thread blocks that share the work.
        parts: Parts that the keys of a unit are divided into, at most.
    """

    def __init__(self, variant: Variant, case: Case, blocks: int, parts: int) -> None:
        super().__init__(variant, case)
        self.blocks, self.parts = blocks, parts

    def launch(self, kernel: Kernel, operands: dict[str, Any]) -> None:
        """Launch the kernel over a workspace full of NaN, in two orders; it leaves its counters at 0."""
        case, variant = self.case, self.variant
        group = case.heads // case.heads_kv
        tiles_m = -(-max(case.lengths_q) * group // variant.tile_m)
        slots = min(self.blocks, tiles_m * case.heads_kv * len(case.lengths_q))
        unit_rows = min(variant.tile_m, max(case.lengths_q) * group)
        rows = slots * self.parts * unit_rows
        out = np.full(rows * variant.head_dim_v + _GUARD, np.nan, np.float32)
        sums = np.full(rows * 2 + _GUARD, np.nan, np.float32)
        arrived = np.zeros(slots + _GUARD, np.uint32)
        params = DecodeParams(
            **operands,
            pack_gqa=group,
            tiles_m=tiles_m,
            partial=PartialParams(
                out.ctypes.data, sums.ctypes.data, arrived.ctypes.data, self.parts, unit_rows, slots
            ),
        )
        for backwards in (False, True):
            kernel.launch(params, self.blocks, backwards=backwards)
            assert not arrived.any(), "the counters are not 0 behind a launch"
        for name, array in (("out", out), ("sums", sums)):
            assert np.isnan(array[-_GUARD:]).all(), f"the kernel wrote behind the partial {name}"
