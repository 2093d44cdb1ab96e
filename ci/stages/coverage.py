"""What the matrix says about wheels, as the plain data that the index shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from index_site.manifest import Exclusion, SmSupport, Support

if TYPE_CHECKING:
    from collections.abc import Iterable

    from matrix.model import Exclusion as Rule
    from matrix.model import Matrix
    from matrix.planner import Plan, Served


def support_by_tag(matrix: Matrix, plan: Plan) -> dict[str, Support]:
    """Return the cells that the wheel of each platform tag serves, axis by axis, in the matrix's order."""
    support = {}
    for platform in matrix.platform:
        rows = [row for row in plan.served if row.cell.platform == platform.name]
        cells = [row.cell for row in rows]
        sms = sm_support(matrix, rows)
        if platform.tag is not None and cells:
            support[platform.tag] = Support(
                platforms=(platform.name,),
                python=tuple(dict.fromkeys(cell.python for cell in cells)),
                torch=tuple(dict.fromkeys(cell.torch for cell in cells)),
                cuda=tuple(dict.fromkeys(cell.cuda for cell in cells)),
                gpus=tuple(sm.gpus for sm in sms),
                sms=sms,
            )
    return support


def sm_support(matrix: Matrix, served: Iterable[Served]) -> tuple[SmSupport, ...]:
    """Return the GPUs of the cells served, SM by SM, with the kind of kernels that serves them."""
    kinds = {row.cell.sm: row.kernels for row in served}
    return tuple(
        SmSupport(sm=sm.name, gpus=sm.gpus, kernels=kinds[sm.name]) for sm in matrix.sm if sm.name in kinds
    )


def exclusions(matrix: Matrix) -> tuple[Exclusion, ...]:
    """Return the rules by which cells are not built, in words."""
    return tuple(Exclusion(cells=_in_words(rule), reason=rule.reason) for rule in matrix.exclude)


def _in_words(rule: Rule) -> str:
    """``python=("3.10",), torch=">=2.15"`` -> ``Python 3.10, torch >=2.15``."""
    named = (
        ("", rule.platform),
        ("Python ", rule.python),
        ("torch ", (rule.torch,) if rule.torch else ()),
        ("", rule.cuda),
        ("sm_", rule.sm),
    )
    return ", ".join(label + " or ".join(values) for label, values in named if values)
