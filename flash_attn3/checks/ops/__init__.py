"""One ``OpCheck`` an operator. Every module here but ``opcheck`` is an operator and defines ``CHECK``."""

from __future__ import annotations

import pkgutil
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from flash_attn3.checks.ops.opcheck import OpCheck

if TYPE_CHECKING:
    from flash_attn3.checks.speed.race import Races

_NOT_OPERATORS = {"opcheck"}


@cache
def op_checks() -> tuple[OpCheck[Any, Any, Any], ...]:
    """Return the check of every operator, in the order of their modules' names.

    Raises:
        TypeError: a module of this folder defines no ``CHECK``, or one of another type.
    """
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return tuple(_check_of(f"{__name__}.{name}") for name in names if name not in _NOT_OPERATORS)


def op_check(op: str) -> OpCheck[Any, Any, Any]:
    """Return the check of one operator, by its name in the kernel table.

    Raises:
        ValueError: there is none.
    """
    found = {check.op: check for check in op_checks()}
    if op not in found:
        raise ValueError(f"op is {op!r}; it should be one of {', '.join(sorted(found))}")
    return found[op]


def races_of(op: str) -> Races[Any, Any, Any]:
    """Return the races of one operator.

    Raises:
        ValueError: there is no such operator, or it has no races.
    """
    races = op_check(op).races
    if races is None:
        raise ValueError(f"op is {op!r}, which has no races")
    return races


def _check_of(module: str) -> OpCheck[Any, Any, Any]:
    check = getattr(import_module(module), "CHECK", None)
    if not isinstance(check, OpCheck):
        raise TypeError(f"{module}.CHECK is {check!r}; it should be an OpCheck")
    return check
