"""One entry of the kernel table, as plain data."""

from __future__ import annotations

from dataclasses import astuple, dataclass

from kernels.table.dtypes import dtype_number


@dataclass(frozen=True)
class Tail:
    """Integers that only the kernels of one operator have.

    An operator derives a frozen dataclass whose fields are in the order of its C++ tail. This base has no
    fields, for operators that need none.
    """

    def words(self) -> tuple[int, ...]:
        """Return the fields as a kernel pack stores them; booleans are 0 and 1."""
        return tuple(int(value) for value in astuple(self))


NO_TAIL = Tail()


@dataclass(frozen=True)
class Variant:
    """One compiled kernel: what it computes, what it needs, and how it is launched.

    Attributes:
        name: Unique; also the kernel's symbol in its image.
        op: Operator: `fwd`, `combine`.
        sm: Compute capability; with a feature letter, the kernel runs on that capability alone: `90a`, `80`.
        code: `cubin`, machine code; or `ptx`, which the driver assembles for any capability from `sm` on.
        dtype_in: Element type of the inputs, a name of `dtypes.py`.
        dtype_out: Element type of the output; `any` if the call chooses it.
        head_dim: Largest head dimension of q and k; 0 if the operator has no limit.
        head_dim_v: Largest head dimension of v and out, the same.
        mask: `full`; `causal` (bottom-right aligned); `local` (windows, chunks and softcap too); or `any`,
            with the run-time parameters of `local`.
        source: File below `kernels/device`.
        tile_m: Query rows that a thread block computes at a time.
        tile_n: Key rows of one step; 0 for an operator without keys.
        threads: Threads of a block.
        smem_bytes: Dynamic shared memory of a block.
        blocks_per_sm: Blocks that one multiprocessor holds.
        macros: Preprocessor definitions of the compile: `(name, value)`.
        tail: Fields of this operator alone.
        allow: Gates of `kernels/build/report.py` that this variant may break: `(gate, reason)`.

    Raises:
        UnknownDTypeError: `dtype_in` or `dtype_out` is no name of `dtypes.py`.
    """

    name: str
    op: str
    sm: str
    code: str
    dtype_in: str
    dtype_out: str
    head_dim: int
    head_dim_v: int
    mask: str
    source: str
    tile_m: int
    tile_n: int
    threads: int
    smem_bytes: int
    blocks_per_sm: int
    macros: tuple[tuple[str, str], ...]
    tail: Tail = NO_TAIL
    allow: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        for dtype in (self.dtype_in, self.dtype_out):
            dtype_number(dtype)
