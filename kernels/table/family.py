"""A family: the kernels compiled from one source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kernels.table.variant import Variant


@dataclass(frozen=True)
class Family:
    """What one module of `families/` adds to the table.

    Attributes:
        variants: Kernels that are shipped.
        candidates: Kernels that `farm tune` compiles and times against `variants`. One that is faster is
            moved into `variants` by hand.
    """

    variants: tuple[Variant, ...]
    candidates: tuple[Variant, ...] = ()
