"""The plan stage: the plan of the matrix, narrowed to a selection."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from packaging.utils import parse_wheel_filename

from ci.engine.toolkits import named_toolkit
from ci.errors import UnknownCell, UnknownSm
from ci.names import matching, nearest
from ci.proof.coverage import CompiledKernel
from ci.proof.evidence import EmulatedRun, Policy, Validation
from ci.stages.coverage import gpu_support
from index_site.gpus import gpu_rows
from kernels.table import VARIANTS
from matrix.block import blocks_of
from matrix.cell import Artefact
from matrix.serving import compiled_for

if TYPE_CHECKING:
    from collections.abc import Sequence
    from collections.abc import Set as AbstractSet

    from ci.proof.evidence import Evidence
    from index_site.degrees import Degree
    from index_site.proofs import Proof
    from matrix.model import Matrix, Platform, Sm
    from matrix.planner import Plan


@dataclass(frozen=True)
class Selection:
    """What a command selects; a field without a value selects everything."""

    patterns: Sequence[str] = ()
    """Shell patterns for names of cells (plan) or artefacts (build)."""
    toolkit: str | None = None
    sm: str | None = None


def select_cells(plan: Plan, matrix: Matrix, selection: Selection) -> Plan:
    """Return a plan of the selected cells only, with the artefacts of their platforms.

    Raises:
        UnknownCell: a pattern matches no cell.
        UnknownToolkit, UnknownSm: the matrix does not list the toolkit or the SM.
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
    return replace(plan, served=served, excluded=excluded, artefacts=artefacts)


def select_artefacts(plan: Plan, matrix: Matrix, selection: Selection) -> tuple[Artefact, ...]:
    """Return the artefacts to build: those that match a pattern, or without patterns this machine's.

    Raises:
        UnknownCell: a pattern matches no artefact, or those of a platform that the matrix excludes.
        UnknownToolkit: the matrix does not list the toolkit.
    """
    toolkit = named_toolkit(matrix, selection.toolkit or matrix.release.toolkit).name
    if not selection.patterns:
        return (Artefact(this_platform(matrix).name, toolkit),)
    names = [str(artefact) for artefact in plan.artefacts]
    for pattern in selection.patterns:
        if not matching(names, pattern) and (reasons := _excluded_platforms(matrix, pattern.split("-")[0])):
            raise UnknownCell(f"{pattern}: {'; '.join(reasons)}")
    chosen = set(_expand("artefact", names, selection.patterns))
    artefacts = tuple(artefact for artefact in plan.artefacts if str(artefact) in chosen)
    if selection.toolkit is not None:
        artefacts = tuple(artefact for artefact in artefacts if artefact.toolkit == toolkit)
    return artefacts


def _excluded_platforms(matrix: Matrix, pattern: str) -> list[str]:
    """Return the reasons why the platforms that match a pattern, and have no target, are excluded."""
    names = {row.name for row in matrix.platform if row.target is None and matching([row.name], pattern)}
    return [rule.reason for rule in matrix.exclude if names.intersection(rule.platform)]


def this_platform(matrix: Matrix) -> Platform:
    """Return the platform of this machine.

    Raises:
        UnknownCell: the matrix does not list it, or has no target for it.
    """
    name = f"{platform.system()}_{platform.machine()}".lower()
    for row in matrix.platform:
        if row.name == name and row.target is not None:
            return row
    buildable = ", ".join(row.name for row in matrix.platform if row.target is not None)
    raise UnknownCell(f"platform: should be one of {buildable}, got this machine's, {name}; name an artefact")


def named_sm(matrix: Matrix, name: str) -> Sm:
    """Return the SM with this name, which may have the letter of a compile target (90, 90a).

    Raises:
        UnknownSm: the matrix does not list it.
    """
    for sm in matrix.sm:
        if sm.name in {name, name.rstrip("af")}:
            return sm
    raise UnknownSm(f"no SM is called {name!r}; {nearest(name, [sm.name for sm in matrix.sm])}")


def proven_by(kept: Sequence[Evidence], matrix: Matrix) -> tuple[list[Proof], set[str]]:
    """Return what the reports of a tree prove of its kernels, and the platforms whose emulation counts."""
    policy = Policy.of(matrix, trust_unsigned=False)
    compiled = [CompiledKernel(variant.name, variant.op, *compiled_for(variant)) for variant in VARIANTS]
    validations = (found for found in kept if isinstance(found, Validation))
    runs = (found for found in kept if isinstance(found, EmulatedRun))
    emulated = {
        run.report.platform
        for run in runs
        if run.emulation(map(str, parse_wheel_filename(run.report.wheel_filename)[3]), policy).counts
    }
    return [found.proof(compiled, policy.min_cases) for found in validations], emulated


def plan_document(
    plan: Plan,
    whole: Plan,
    matrix: Matrix,
    proofs: Sequence[Proof],
    emulated: AbstractSet[str] = frozenset(),
) -> dict[str, Any]:
    """Return a plan as plain data.

    Args:
        plan: the whole plan or a selection of it.
        whole: the whole plan, which decides what is released.
        matrix: the matrix of the plan.
        proofs: the validation reports that the status of each GPU is taken from.
        emulated: the platforms whose wheels passed an emulation that counts.

    Returns:
        ``cells`` and ``exclusions`` list every cell by name; ``served`` has the same served cells as blocks;
        ``gpus`` has the code that serves each operator on each SM; ``proof`` of a cell is how far it goes.
    """
    platforms = {row.name: row for row in matrix.platform}
    gpus = gpu_support(matrix, plan, {row.cell.sm for row in plan.served})
    rows = gpu_rows(gpus, proofs)
    proven = {row.sm for row in rows if row.proven}
    released = {row.artefact for row in whole.served}
    users = {
        artefact: [row.cell for row in plan.served if row.artefact == artefact] for artefact in plan.artefacts
    }
    return {
        "cells": [
            {
                "cell": str(row.cell),
                "artefact": str(row.artefact),
                "operators": dict(plan.serving[row.cell.sm]),
                "proof": _degree(platforms[row.cell.platform], row.cell.sm, proven, emulated),
            }
            for row in plan.served
        ],
        "served": [
            {"artefact": str(artefact), **block.model_dump(mode="json")}
            for artefact, cells in users.items()
            for block in blocks_of(cells, matrix.values)
        ],
        "gpus": [
            {"sm": gpu.sm, "operators": gpu.operators, **asdict(row)}
            for gpu, row in zip(gpus, rows, strict=True)
        ],
        "artefacts": [
            {
                "artefact": str(artefact),
                "platform": artefact.platform,
                "toolkit": artefact.toolkit,
                "tag": f"py3-none-{platforms[artefact.platform].tag}",
                "proof": platforms[artefact.platform].proof,
                "released": artefact in released,
                "cells": len(users[artefact]),
            }
            for artefact in plan.artefacts
        ],
        "exclusions": [{"cell": str(row.cell), "reason": row.reason} for row in plan.excluded],
        "release": matrix.release.model_dump(mode="json"),
    }


def _degree(platform: Platform, sm: str, proven: AbstractSet[str], emulated: AbstractSet[str]) -> Degree:
    """Return how far the proof of the cells of a platform and an SM goes.

    Args:
        platform: of the matrix.
        sm: of the matrix.
        proven: the SMs whose kernels a GPU has proven.
        emulated: see :func:`plan_document`.
    """
    if sm not in proven:
        return "built"
    if platform.proof == "gpu":
        return "validated"
    return "emulated" if platform.name in emulated else "built"


def _expand(noun: str, names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    if not patterns:
        return list(names)
    chosen: list[str] = []
    for pattern in patterns:
        found = matching(names, pattern)
        if not found:
            raise UnknownCell(f"no {noun} matches {pattern!r}; {nearest(pattern, names)}")
        chosen += found
    return chosen
