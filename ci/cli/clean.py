"""The command that frees disk."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import click

from ci.cli.invocation import now
from ci.cli.options import work_option

if TYPE_CHECKING:
    from pathlib import Path


@click.command()
@click.option(
    "--unused-for",
    "days",
    metavar="DAYS",
    type=click.IntRange(min=0),
    default=30,
    show_default=True,
    help="Remove compiled objects that no build used in these days.",
)
@work_option
def clean(days: int, work: Path) -> None:
    """Remove what builds do not need any more and can make again.

    Removes old compiled objects, toolkits that the matrix no longer pins, outdated emulated machines,
    environments that nothing uses, and the scratch files of killed runs. Wheels, reports and sites stay.
    """
    from ci.cli.console import ConsoleReporter
    from ci.stages.clean import clean as clean_work
    from matrix.model import read_matrix

    with ConsoleReporter() as progress:
        removed = clean_work(
            work=work, matrix=read_matrix(), unused_since=now() - timedelta(days=days), progress=progress
        )
    for kind in removed:
        click.echo(f"removed {kind.count} {kind.kind}: {kind.size / 1e6:.1f} MB")
