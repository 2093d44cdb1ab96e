"""The variants of `bwd_finish.cu`: the last launch of the backward pass."""

from __future__ import annotations

from kernels.table.bwd import FINISH, BwdTail
from kernels.table.dtypes import dtype_named
from kernels.table.family import Family
from kernels.table.fwd import FWD_DTYPES
from kernels.table.targets import PORTABLE_TARGETS, Target
from kernels.table.variant import Variant

_THREADS = 256
_THREADS_PER_SM = 2048


def _variant(target: Target, dtype: str) -> Variant:
    name = f"bwd_finish_{target.name}_{dtype}"
    return Variant(
        name=name,
        op="bwd",
        sm=target.sm,
        code=target.code,
        dtype_in=dtype,
        dtype_out=dtype,
        head_dim=0,
        head_dim_v=0,
        mask="any",
        source="bwd/bwd_finish.cu",
        tile_m=1,  # the main launch decides the tile
        tile_n=0,
        threads=_THREADS,
        smem_bytes=0,
        blocks_per_sm=_THREADS_PER_SM // _THREADS,
        macros=(
            ("FA3_KERNEL", name),
            ("FA3_ELEMENT", dtype_named(dtype).cxx),
            ("FA3_THREADS", str(_THREADS)),
        ),
        tail=BwdTail(launch=FINISH),
    )


FAMILY = Family(
    variants=tuple(_variant(target, dtype) for target in PORTABLE_TARGETS for dtype in FWD_DTYPES)
)
