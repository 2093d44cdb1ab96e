"""Output buffers between canaries: every element of the output must be written, and nothing beside it.

The output is filled with a poison, a NaN bit pattern that no arithmetic produces, and the memory around it
with canaries. After the call no poison may be left, and every canary must be unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flash_attn3.checks.outcome import Outcome

CaseT = TypeVar("CaseT")
Results = tuple[Tensor, ...]
"""What a call returns: (out, lse) of forward operators."""

_POISON = {torch.int16: 0x7FAD, torch.int32: 0x7FADBEEF}
_CANARY = {torch.int16: 0x5AC3, torch.int32: 0x5AC35AC3}
_GUARD = 1 << 16  # elements on each side


@dataclass(frozen=True)
class MemoryCheck(Generic[CaseT]):
    """One check of what a call writes.

    Attributes:
        name: unique among the memory checks.
        case: the case that is run; it says which kernels serve the check.
        run: takes the function under test and the device.
    """

    name: str
    case: CaseT
    run: Callable[[Callable[..., Results], torch.device], Outcome]


class Memory:
    """An integer buffer full of canaries, and the block in its middle that may be written."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
        self.dtype = dtype
        size = torch.Size(shape).numel()
        self.buffer = torch.full((2 * _GUARD + size,), _CANARY[dtype], dtype=dtype, device=device)
        self.block = self.buffer[_GUARD : _GUARD + size].view(shape)

    def poison(self, view: Tensor) -> None:
        """Fill a view of the block with poison."""
        view.fill_(_POISON[self.dtype])


def find_damage(
    memory: Memory, written: Tensor, name: str, may_be_written: Tensor | None = None
) -> Iterator[str]:
    """Yield a sentence for poison left in ``written``, and for canaries changed outside of it.

    Args:
        memory: after the call; its canaries are restored in the given views.
        written: the view that the call should have written, all of it.
        name: of the output, for the sentences.
        may_be_written: a view that the call may have written beside.
    """
    poison = int((written == _POISON[memory.dtype]).sum())
    if poison:
        yield f"{name}: {poison} of {written.numel()} elements were never written"
    for view in (written, may_be_written):
        if view is not None:
            view.fill_(_CANARY[memory.dtype])
    touched = (memory.buffer != _CANARY[memory.dtype]).nonzero()
    if touched.numel():
        first = int(touched[0]) - _GUARD
        yield f"{name}: {touched.shape[0]} elements outside were written, the first at {first}"


@dataclass(frozen=True)
class OutBuffer:
    """Memory for ``out``: ``bits`` is the poisoned view of ``memory`` that the call is given."""

    memory: Memory
    bits: Tensor


def find_wrong_writes(
    call: Callable[[Tensor], Results],
    expected: Results,
    buffer: OutBuffer,
    used_rows: Callable[[Tensor, Tensor], Results] | None = None,
) -> Iterator[str]:
    """Yield a sentence for each difference between a call with ``out=`` and the same call without.

    Args:
        call: takes out and returns (out, lse).
        expected: (out, lse) of the call without out; the bits must be equal.
        buffer: holds out.
        used_rows: selects the rows to compare where some are unspecified; None compares all.
    """
    expected_out, expected_lse = expected
    out = buffer.bits.view(expected_out.dtype)
    written, lse = call(out)
    if written is not out:
        yield "the call returned another tensor than out"
    found: Results = (out, lse)
    wanted: Results = (expected_out, expected_lse)
    if used_rows is not None:
        found, wanted = used_rows(*found), used_rows(*wanted)
    if not all(torch.equal(bits_of(a), bits_of(b)) for a, b in zip(found, wanted, strict=True)):
        yield "the result differs from the call's without out"
    if used_rows is not None:
        # The call need not write unspecified rows; that it wrote the others is what the comparison shows.
        buffer.bits.fill_(0)
    yield from find_damage(buffer.memory, buffer.bits, "out")


def bits_of(tensor: Tensor) -> Tensor:
    """Return the bits of a tensor of two- or four-byte elements, as integers: a NaN equals itself."""
    return tensor.contiguous().view(torch.int16 if tensor.element_size() == 2 else torch.int32)
