"""The variants of `combine.cu`: partial results of attention combined into one."""

from __future__ import annotations

from kernels.table.dtypes import ANY_DTYPE
from kernels.table.family import Family
from kernels.table.targets import PORTABLE_TARGETS, Target
from kernels.table.variant import Variant

_TILE_M = 4
_THREADS = 128
_THREADS_PER_SM = 2048


def _variant(target: Target) -> Variant:
    name = f"combine_{target.name}"
    return Variant(
        name=name,
        op="combine",
        sm=target.sm,
        code=target.code,
        dtype_in="fp32",
        dtype_out=ANY_DTYPE,
        head_dim=0,
        head_dim_v=0,
        mask="any",
        source="combine/combine.cu",
        tile_m=_TILE_M,
        tile_n=0,
        threads=_THREADS,
        smem_bytes=0,
        blocks_per_sm=_THREADS_PER_SM // _THREADS,
        macros=(("FA3_KERNEL", name), ("FA3_TILE_M", str(_TILE_M)), ("FA3_THREADS", str(_THREADS))),
    )


FAMILY = Family(variants=tuple(_variant(target) for target in PORTABLE_TARGETS))
