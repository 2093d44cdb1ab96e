"""The variants of `bwd_queries_sm90.cu`: dq of wide heads, for compute capability 9.0 alone."""

from __future__ import annotations

from kernels.table.bwd import QUERIES, BwdTail
from kernels.table.dtypes import dtype_named
from kernels.table.family import Family
from kernels.table.fwd import FWD_DTYPES, head_dims_name
from kernels.table.slabs import SLAB_ROW_BYTES, slabs
from kernels.table.variant import Variant

_ALIGNMENT = 1024  # of the structure in shared memory
_MOST_OTHERS = 512  # bytes of barriers and the work items, at most
_QUERIES = 128  # of a tile
_KEYS = 64  # of a step
_STAGES = 2  # buffers for tiles of k; there is one for v


def _smem_bytes(head_dim: int, head_dim_v: int, dtype: str) -> int:
    """Return the size of the buffers and the barriers."""
    slabs_qk, slabs_v = slabs(head_dim, dtype), slabs(head_dim_v, dtype)
    rows = _QUERIES * (slabs_qk + slabs_v) + _KEYS * (_STAGES * slabs_qk + slabs_v)
    return -(-(rows * SLAB_ROW_BYTES + _MOST_OTHERS) // _ALIGNMENT) * _ALIGNMENT


def _variant(head_dim: int, dtype: str) -> Variant:
    name = f"bwd_queries_sm90_{dtype}_{head_dims_name(head_dim, head_dim)}"
    smem_bytes = _smem_bytes(head_dim, head_dim, dtype)
    return Variant(
        name=name,
        op="bwd",
        sm="90a",
        code="cubin",
        dtype_in=dtype,
        dtype_out=dtype,
        head_dim=head_dim,
        head_dim_v=head_dim,
        mask="any",
        source="bwd/bwd_queries_sm90.cu",
        tile_m=_QUERIES,
        tile_n=_KEYS,
        threads=384,
        smem_bytes=smem_bytes,
        blocks_per_sm=1,
        macros=(
            ("FA3_KERNEL", name),
            ("FA3_ELEMENT", dtype_named(dtype).cxx),
            ("FA3_HEAD_DIM", str(head_dim)),
            ("FA3_HEAD_DIM_V", str(head_dim)),
            ("FA3_TILE_M", str(_QUERIES)),
            ("FA3_TILE_N", str(_KEYS)),
            ("FA3_SMEM_BYTES", str(smem_bytes)),
        ),
        tail=BwdTail(launch=QUERIES, dynamic=True, tensor_maps=True, lane_floats=0),
    )


FAMILY = Family(variants=tuple(_variant(head_dim, dtype) for head_dim in (192, 256) for dtype in FWD_DTYPES))
