"""The torch operators: one record each, one module a family. A module added to this folder is found here."""

from __future__ import annotations

import importlib
import pkgutil

from flash_attn3._ops.operator import Operator


def operators() -> tuple[Operator, ...]:
    """Return every record that a module of this folder holds, in the order of the names."""
    found: dict[str, Operator] = {}
    for module in pkgutil.iter_modules(__path__):
        members = vars(importlib.import_module(f"{__name__}.{module.name}"))
        found |= {value.name: value for value in members.values() if isinstance(value, Operator)}
    return tuple(found[name] for name in sorted(found))


def register() -> None:
    """Register with torch what every operator has in Python."""
    for operator in operators():
        operator.register()
