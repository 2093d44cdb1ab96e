"""Which code serves a GPU, operator by operator: the runtime's rule of choice (`kernels/host/pack`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from kernels.table.variant import Variant

Code = Literal["exact", "portable", "ptx"]
CODES: tuple[Code, ...] = ("exact", "portable", "ptx")
"""By the number that a kernel pack stores; the runtime prefers the first that runs."""
NEWER = "newer"
"""Name of the SM that stands for all GPUs later than those in the matrix."""

Targets = Iterable[tuple[int, Code]]
"""SM and code of compiled kernels."""
Serving = Mapping[str, Code | None]
"""Operator -> the code that serves it on one GPU; None if no kernel of the operator runs there."""


def compiled_for(variant: Variant) -> tuple[int, Code]:
    """Return the SM that a variant is compiled for, and its code."""
    return target_of(variant.sm, variant.code)


def target_of(sm: str, code: str) -> tuple[int, Code]:
    """Return the SM as a number, and the code, of a kernel with these fields of a :class:`Variant`.

    Raises:
        ValueError: ``sm`` is no compute capability.
    """
    if code == "ptx":
        return int(sm), "ptx"
    return int(sm.rstrip("af")), "portable" if sm.isdigit() else "exact"


def targets_by_operator(table: Iterable[Variant]) -> dict[str, set[tuple[int, Code]]]:
    """Return what each operator is compiled for, with the operators in the order of the table."""
    targets: dict[str, set[tuple[int, Code]]] = {}
    for variant in table:
        targets.setdefault(variant.op, set()).add(compiled_for(variant))
    return targets


def serving(sm: str, operators: Mapping[str, Targets]) -> Serving:
    """Return the code that serves each operator on the GPUs of an SM.

    Args:
        sm: name of the SM, such as ``90``, or ``newer``.
        operators: what each operator is compiled for.
    """
    return {op: serving_code(sm, targets) for op, targets in operators.items()}


def serving_code(sm: str, targets: Targets) -> Code | None:
    """Return the code that the runtime chooses on the GPUs of an SM; None if nothing runs there.

    Args:
        sm: name of the SM, such as ``90``, or ``newer``.
        targets: SM and code of each kernel to choose from.
    """
    running = {code for number, code in targets if runs_on(sm, number, code)}
    return next((code for code in CODES if code in running), None)


def runs_on(sm: str, number: int, code: Code) -> bool:
    """Return whether GPUs of an SM run a kernel of a code that is compiled for the SM ``number``.

    CUDA's compatibility rules: `exact` on its SM, `portable` on later minors, `ptx` on all later.
    """
    if sm == NEWER:
        return code == "ptx"
    if code == "exact":
        return int(sm) == number
    if code == "ptx":
        return int(sm) >= number
    major, minor = divmod(int(sm), 10)
    return major == number // 10 and minor >= number % 10
