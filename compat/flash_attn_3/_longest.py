"""The length of the longest sequence, which packed sequences alone have as an argument."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def longest(name: str, value: int | Tensor | None, cu_seqlens: Tensor | None) -> int | Tensor:
    """Return the length of the longest packed sequence; 0, which nothing reads, for other tensors.

    Raises:
        ValueError: it is not given with packed sequences.
    """
    if cu_seqlens is None:
        return 0
    if value is None:
        raise ValueError(f"{name} must be given with {name.replace('max_seqlen', 'cu_seqlens')}; it is None")
    return value
