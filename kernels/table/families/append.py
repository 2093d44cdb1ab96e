"""The variants of `append.cu`: new rows written to a cache of keys and values."""

from __future__ import annotations

from kernels.table.dtypes import dtype_named
from kernels.table.family import Family
from kernels.table.fwd import FWD_DTYPES
from kernels.table.targets import PORTABLE_TARGETS, Target
from kernels.table.variant import Variant

_TILE_M = 4
_THREADS = 256
_BLOCKS_PER_SM = 5  # with 48 registers a thread


def _variant(target: Target, dtype: str) -> Variant:
    name = f"append_{target.name}_{dtype}"
    return Variant(
        name=name,
        op="append",
        sm=target.sm,
        code=target.code,
        dtype_in=dtype,
        dtype_out=dtype,
        head_dim=0,
        head_dim_v=0,
        mask="any",
        source="append/append.cu",
        tile_m=_TILE_M,
        tile_n=0,
        threads=_THREADS,
        smem_bytes=0,
        blocks_per_sm=_BLOCKS_PER_SM,
        macros=(
            ("FA3_KERNEL", name),
            ("FA3_ELEMENT", dtype_named(dtype).cxx),
            ("FA3_TILE_M", str(_TILE_M)),
            ("FA3_THREADS", str(_THREADS)),
        ),
    )


FAMILY = Family(
    variants=tuple(_variant(target, dtype) for target in PORTABLE_TARGETS for dtype in FWD_DTYPES)
)
