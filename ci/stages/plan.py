"""The plan stage: what the matrix asks for, narrowed to what was selected."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ci.engine.toolkits import named_toolkit
from ci.errors import UnknownCell, UnknownSm
from ci.names import matching, nearest
from ci.stages.coverage import sm_support
from index_site.gpus import gpu_rows
from matrix.cell import Artefact
from matrix.planner import Plan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from index_site.manifest import Proof
    from matrix.model import Matrix, Platform, Sm


@dataclass(frozen=True)
class Selection:
    """What an operator narrows a stage to; nothing named means everything."""

    patterns: Sequence[str] = ()
    """Shell patterns on the names of cells (plan) or artefacts (build)."""
    toolkit: str | None = None
    sm: str | None = None


def select_cells(plan: Plan, matrix: Matrix, selection: Selection) -> Plan:
    """Narrow a plan to the selected cells and the artefacts that serve them.

    Raises:
        UnknownCell: if a pattern matches no cell.
        UnknownToolkit, UnknownSm: if the matrix does not list what was named.
    """
    sms = [sm.name for sm in matrix.sm] if selection.sm is None else [named_sm(matrix, selection.sm).name]
    names = [*(str(row.cell) for row in plan.served), *(str(row.cell) for row in plan.excluded)]
    chosen = set(_expand("cell", names, selection.patterns))
    served = tuple(row for row in plan.served if str(row.cell) in chosen and row.cell.sm in sms)
    excluded = tuple(row for row in plan.excluded if str(row.cell) in chosen and row.cell.sm in sms)
    artefacts = plan.artefacts
    if selection.patterns:
        platforms = {row.cell.platform for row in served} | {row.cell.platform for row in excluded}
        artefacts = tuple(artefact for artefact in artefacts if artefact.platform in platforms)
    if selection.toolkit is not None:
        toolkit = named_toolkit(matrix, selection.toolkit).name
        artefacts = tuple(artefact for artefact in artefacts if artefact.toolkit == toolkit)
    return Plan(served, excluded, artefacts)


def select_artefacts(plan: Plan, matrix: Matrix, selection: Selection) -> tuple[Artefact, ...]:
    """Return the artefacts to build: those that the patterns match, or the one for this machine.

    Raises:
        UnknownCell: if a pattern matches no artefact.
        UnknownToolkit: if the matrix does not list the toolkit named.
    """
    toolkit = named_toolkit(matrix, selection.toolkit or matrix.release.toolkit).name
    if not selection.patterns:
        return (Artefact(this_platform(matrix).name, toolkit),)
    chosen = set(_expand("artefact", [str(artefact) for artefact in plan.artefacts], selection.patterns))
    artefacts = tuple(artefact for artefact in plan.artefacts if str(artefact) in chosen)
    if selection.toolkit is not None:
        artefacts = tuple(artefact for artefact in artefacts if artefact.toolkit == toolkit)
    return artefacts


def this_platform(matrix: Matrix) -> Platform:
    """Return the matrix's platform for the machine this runs on.

    Raises:
        UnknownCell: if the matrix has none that can be built.
    """
    name = f"{platform.system()}_{platform.machine()}".lower()
    for row in matrix.platform:
        if row.name == name and row.target is not None:
            return row
    buildable = ", ".join(row.name for row in matrix.platform if row.target is not None)
    raise UnknownCell(f"nothing is built for this machine, {name}; name an artefact of {buildable}")


def named_sm(matrix: Matrix, name: str) -> Sm:
    """Return the SM called ``name``, with or without the letter of a compile target (90, 90a).

    Raises:
        UnknownSm: if the matrix does not list it.
    """
    for sm in matrix.sm:
        if sm.name in {name, name.rstrip("af")}:
            return sm
    raise UnknownSm(f"no SM is called {name!r}; {nearest(name, [sm.name for sm in matrix.sm])}")


def plan_document(plan: Plan, whole: Plan, matrix: Matrix, proofs: Sequence[Proof]) -> dict[str, Any]:
    """Return a plan, narrowed from the whole one, as plain data; of GPUs it says what these reports do."""
    tags = {row.name: row.tag for row in matrix.platform}
    sms = sm_support(matrix, plan.served)
    released = {row.artefact for row in whole.served}
    users = {
        artefact: [row for row in plan.served if row.artefact == artefact] for artefact in plan.artefacts
    }
    return {
        "cells": [
            {"cell": str(row.cell), "artefact": str(row.artefact), "kernels": row.kernels}
            for row in plan.served
        ],
        "gpus": [{"sm": sm.sm, **asdict(row)} for sm, row in zip(sms, gpu_rows(sms, proofs), strict=True)],
        "artefacts": [
            {
                "artefact": str(artefact),
                "platform": artefact.platform,
                "toolkit": artefact.toolkit,
                "tag": f"py3-none-{tags[artefact.platform]}",
                "released": artefact in released,
                "cells": len(users[artefact]),
            }
            for artefact in plan.artefacts
        ],
        "exclusions": [{"cell": str(row.cell), "reason": row.reason} for row in plan.excluded],
        "release": matrix.release.model_dump(mode="json"),
    }


def _expand(kind: str, names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    if not patterns:
        return list(names)
    chosen: list[str] = []
    for pattern in patterns:
        found = matching(names, pattern)
        if not found:
            raise UnknownCell(f"no {kind} matches {pattern!r}; {nearest(pattern, names)}")
        chosen += found
    return chosen
