"""A contract of import-linter: modules that import the standard library, themselves and named others."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from importlinter import Contract, ContractCheck, fields, output

if TYPE_CHECKING:
    from grimp import ImportGraph


class ClosedContract(Contract):
    """Fails for a direct import of anything but the standard library and the modules named.

    Options:
        modules: packages and modules whose imports are checked; they may import each other.
        allowed: further packages and modules that they may import.
    """

    type_name = "closed"

    modules = fields.ListField(subfield=fields.StringField())
    allowed = fields.ListField(subfield=fields.StringField(), required=False)

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:  # noqa: ARG002 (the base's signature)
        checked = {name for root in self.modules for name in (root, *graph.find_descendants(root))}
        allowed = (*self.modules, *(self.allowed or ()), "__future__")
        wrong = [
            f"{importer} imports {imported}"
            for importer in sorted(checked)
            for imported in sorted(graph.find_modules_directly_imported_by(importer))
            if imported.partition(".")[0] not in sys.stdlib_module_names
            and not any(imported == name or imported.startswith(f"{name}.") for name in allowed)
        ]
        return ContractCheck(kept=not wrong, metadata={"wrong": wrong})

    def render_broken_contract(self, check: ContractCheck) -> None:
        for line in check.metadata["wrong"]:
            output.print_error(line)
