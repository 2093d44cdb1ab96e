"""The variants of `bwd_keys_sm90.cu`: dk and dv of wide heads, for compute capability 9.0 alone."""

from __future__ import annotations

from kernels.table.bwd import MAIN, BwdTail
from kernels.table.dtypes import dtype_named
from kernels.table.family import Family
from kernels.table.fwd import FWD_DTYPES, head_dims_name
from kernels.table.slabs import SLAB_ROW_BYTES, slabs
from kernels.table.variant import Variant

_ALIGNMENT = 1024  # of the structure in shared memory
_MOST_OTHERS = 512  # bytes of barriers and the work items, at most
_ROWS = 64  # queries of a step, and keys of a tile
_STAGES = 2  # buffers for tiles of q, and as many for dout


def _smem_bytes(head_dim: int, head_dim_v: int, dtype: str) -> int:
    """Return the size of the buffers and the barriers."""
    rows = _ROWS * (1 + _STAGES) * (slabs(head_dim, dtype) + slabs(head_dim_v, dtype))
    weights = 2 * _ROWS * _ROWS * 4
    statistics = 2 * _STAGES * _ROWS * 4
    return -(-(rows * SLAB_ROW_BYTES + weights + statistics + _MOST_OTHERS) // _ALIGNMENT) * _ALIGNMENT


def _variant(head_dim: int, dtype: str) -> Variant:
    name = f"bwd_keys_sm90_{dtype}_{head_dims_name(head_dim, head_dim)}"
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
        source="bwd/bwd_keys_sm90.cu",
        tile_m=_ROWS,
        tile_n=_ROWS,
        threads=384,
        smem_bytes=smem_bytes,
        blocks_per_sm=1,
        macros=(
            ("FA3_KERNEL", name),
            ("FA3_ELEMENT", dtype_named(dtype).cxx),
            ("FA3_HEAD_DIM", str(head_dim)),
            ("FA3_HEAD_DIM_V", str(head_dim)),
            ("FA3_TILE_M", str(_ROWS)),
            ("FA3_TILE_N", str(_ROWS)),
            ("FA3_STAGES", str(_STAGES)),
            ("FA3_SMEM_BYTES", str(smem_bytes)),
        ),
        tail=BwdTail(launch=MAIN, dynamic=True, tensor_maps=True, lane_floats=0),
    )


FAMILY = Family(variants=tuple(_variant(head_dim, dtype) for head_dim in (192, 256) for dtype in FWD_DTYPES))
