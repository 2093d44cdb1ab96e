"""Convert the plan to the records of the manifest: what wheels serve, and what is excluded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ci.stages.listing import Context
from index_site.manifest import ExcludedCells, GpuSupport, Support
from matrix.block import blocks_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ci.check import Check
    from matrix.model import Matrix
    from matrix.planner import Plan


def context_of(
    matrix: Matrix, plan: Plan, audits: Mapping[str, Sequence[Check]], base_url: str | None = None
) -> Context:
    """Return what the matrix says of wheels, with their audits and the address of the site."""
    cadence = matrix.release.cadence_days
    return Context(audits, support_by_tag(matrix, plan), exclusions(matrix), base_url, cadence)


def support_by_tag(matrix: Matrix, plan: Plan) -> dict[str, Support]:
    """Return the cells that wheels serve, by platform tag (``manylinux_2_17_x86_64``)."""
    support = {}
    for platform in matrix.platform:
        cells = [row.cell for row in plan.served if row.cell.platform == platform.name]
        if platform.tag is not None and cells:
            support[platform.tag] = Support(
                cells=blocks_of(cells, matrix.values),
                gpus=gpu_support(matrix, plan, {cell.sm for cell in cells}),
            )
    return support


def gpu_support(matrix: Matrix, plan: Plan, sms: Iterable[str]) -> tuple[GpuSupport, ...]:
    """Return what serves the GPUs of these SMs, operator by operator, in the order of the matrix."""
    chosen = set(sms)
    return tuple(
        GpuSupport(sm=sm.name, gpus=sm.gpus, operators=dict(plan.serving[sm.name]))
        for sm in matrix.sm
        if sm.name in chosen
    )


def exclusions(matrix: Matrix) -> tuple[ExcludedCells, ...]:
    """Return the exclusions of the matrix, in its order."""
    return tuple(
        ExcludedCells(cells=block, reason=rule.reason)
        for rule in matrix.exclude
        if (block := rule.block(matrix.axes.torch)) is not None
    )
