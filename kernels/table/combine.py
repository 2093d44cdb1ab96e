"""The rows of `combine.cu`: partial results of attention joined into one."""

from __future__ import annotations

from kernels.table.targets import PORTABLE_TARGETS, Target
from kernels.table.variant import Variant

_TILE_M = 4
_THREADS = 128


def _row(target: Target) -> Variant:
    name = f"combine_{target.name}"
    return Variant(
        name=name,
        op="combine",
        sm=target.sm,
        code=target.code,
        dtype="fp32",
        head_dim=0,
        head_dim_v=0,
        mask="any",
        source="combine/combine.cu",
        tile_m=_TILE_M,
        tile_n=0,
        threads=_THREADS,
        smem_bytes=0,
        blocks_per_sm=2048 // _THREADS,
        macros=(("FA3_KERNEL", name), ("FA3_TILE_M", str(_TILE_M)), ("FA3_THREADS", str(_THREADS))),
    )


COMBINE: tuple[Variant, ...] = tuple(_row(target) for target in PORTABLE_TARGETS)
