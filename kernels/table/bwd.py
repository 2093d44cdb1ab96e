"""What the families of attention backward share: the launches of a call, and their tail."""

from __future__ import annotations

from dataclasses import dataclass

from kernels.table.variant import Tail

PREPARE, MAIN, QUERIES, FINISH = range(4)
"""Launches of a call, in their order. `QUERIES` computes dq where the main one does not."""


@dataclass(frozen=True)
class BwdTail(Tail):
    """Fields of the operator `bwd`, in the order of its C++ tail.

    Attributes:
        launch: Which launch of a call the kernel is: `PREPARE`, `MAIN`, `QUERIES` or `FINISH`.
        dynamic: Blocks take tiles of keys from a queue in device memory; without it, each tile has a block.
        tensor_maps: Loads through tensor maps, in boxes of `tile_m` rows of q and `tile_n` of k.
        lane_floats: Neighbouring floats of a lane in the sums of dq: 1 or 4; 0 for a main kernel that adds
            nothing to them, beside which one of `QUERIES` runs.
    """

    launch: int
    dynamic: bool = False
    tensor_maps: bool = False
    lane_floats: int = 1
