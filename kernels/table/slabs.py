"""Size of a tile in shared memory: slabs with rows of 128 bytes (`kernels/device/parts/slab.cuh`)."""

from __future__ import annotations

from kernels.table.dtypes import dtype_named

SLAB_ROW_BYTES = 128  # the widest swizzle of shared memory


def slabs(columns: int, dtype: str) -> int:
    """Return the number of slabs side by side that hold this number of columns.

    Raises:
        UnknownDTypeError: `dtype` is no name of `dtypes.py`.
    """
    return -(-columns * dtype_named(dtype).bytes // SLAB_ROW_BYTES)
