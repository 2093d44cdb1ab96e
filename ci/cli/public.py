"""Commands for the public farm: workflows."""

from __future__ import annotations

import click

from ci.project import ROOT


@click.command()
def workflows() -> None:
    """Write the workflows of the public farm into .github/workflows of this tree.

    They follow from the matrix: what is built, and how often.
    """
    from ci.workflows.generate import write_workflows
    from matrix.model import read_matrix

    for path in write_workflows(read_matrix(), ROOT):
        click.echo(path)
