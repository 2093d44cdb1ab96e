"""What the matrix says about wheels, as the plain data that the index shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ci.manifest import Exclusion, Support

if TYPE_CHECKING:
    from matrix.model import Exclusion as Rule
    from matrix.model import Matrix
    from matrix.planner import Plan


def support_by_tag(matrix: Matrix, plan: Plan) -> dict[str, Support]:
    """Return the cells that the wheel of each platform tag serves, axis by axis, in the matrix's order."""
    gpus = {sm.name: f"{sm.gpus} (sm_{sm.target})" for sm in matrix.sm}
    support = {}
    for platform in matrix.platform:
        cells = [row.cell for row in plan.served if row.cell.platform == platform.name]
        if platform.tag is not None and cells:
            support[platform.tag] = Support(
                platforms=(platform.name,),
                python=tuple(dict.fromkeys(cell.python for cell in cells)),
                torch=tuple(dict.fromkeys(cell.torch for cell in cells)),
                cuda=tuple(dict.fromkeys(cell.cuda for cell in cells)),
                gpus=tuple(dict.fromkeys(gpus[cell.sm] for cell in cells)),
            )
    return support


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
