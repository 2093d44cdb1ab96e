"""One module a family; each defines `FAMILY`. A new module here is in the table without any other edit."""

from __future__ import annotations

import importlib
import pkgutil

from kernels.table.family import Family


def gather_families() -> tuple[Family, ...]:
    """Import every module of this folder and return their families, sorted by the name of the module.

    Raises:
        TypeError: A module defines no `FAMILY`.
    """
    families = []
    for name in sorted(module.name for module in pkgutil.iter_modules(__path__)):
        family = getattr(importlib.import_module(f"{__name__}.{name}"), "FAMILY", None)
        if not isinstance(family, Family):
            raise TypeError(f"{__name__}.{name}: FAMILY is {family!r}, expected a Family")
        families.append(family)
    return tuple(families)
