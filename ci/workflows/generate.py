"""Renders the workflows: a pure function of the matrix."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ci.errors import UnfitMatrix
from ci.files import write_atomically
from ci.workflows.actions import ACTIONS
from matrix.planner import plan

if TYPE_CHECKING:
    from matrix.model import Matrix

FOLDER = Path(".github") / "workflows"
"""Where GitHub looks for workflows in a tree."""
_TEMPLATES = Path(__file__).with_name("templates")


def workflows(matrix: Matrix) -> dict[str, str]:
    """Return the workflows: file name -> text.

    Raises:
        UnfitMatrix: the cadence is no number of weeks.
    """
    if matrix.release.cadence_days % 7:
        raise UnfitMatrix(
            "release.cadence_days: should be a multiple of 7, for releases on Mondays, "
            f"got {matrix.release.cadence_days}"
        )
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        variable_start_string="[[",  # braces are the workflows' own
        variable_end_string="]]",
        block_start_string="[%",
        block_end_string="%]",
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
        autoescape=False,  # noqa: S701 (YAML, from data of this tree)
    )
    released = sorted({row.artefact for row in plan(matrix).served})
    emulated = {row.name for row in matrix.platform if row.proof == "emulation"}
    facts = {
        "actions": ACTIONS,
        "artefacts": [str(artefact) for artefact in released],
        "emulated": [str(artefact) for artefact in released if artefact.platform in emulated],
        "cadence_days": matrix.release.cadence_days,
        "weeks": matrix.release.cadence_days // 7,
    }
    return {
        name: environment.get_template(name).render(facts) for name in sorted(environment.list_templates())
    }


def write_workflows(matrix: Matrix, root: Path) -> list[Path]:
    """Write the workflows into the tree at ``root``; return the files.

    Raises:
        UnfitMatrix: as :func:`workflows` does.
        DiskFull: there is no room.
    """
    texts = workflows(matrix)
    for name, text in texts.items():
        write_atomically(root / FOLDER / name, text.encode())
    return [root / FOLDER / name for name in texts]
