"""Commands for the public farm: workflows and watch."""

from __future__ import annotations

import click

from ci.project import ROOT

SOMETHING_NEW = 48
"""The exit code of watch that is no error: 0 says that nothing is new."""


@click.command()
def workflows() -> None:
    """Write the workflows of the public farm into .github/workflows of this tree.

    They follow from the matrix: what is built, and how often.
    """
    from ci.workflows.generate import write_workflows
    from matrix.model import read_matrix

    for path in write_workflows(read_matrix(), ROOT):
        click.echo(path)


@click.command()
@click.option("--index", "address", metavar="URL", help="The index of packages to read [pip's own].")
@click.option("--apply", is_flag=True, help="Write the change into matrix/matrix.toml.")
@click.option(
    "--timeout",
    metavar="S",
    type=click.FloatRange(min=0, min_open=True),
    default=60,
    show_default=True,
    help="For an answer; each is asked for up to four times.",
)
@click.pass_context
def watch(context: click.Context, address: str | None, apply: bool, timeout: float) -> None:
    """Look for new torches, CUDA compilers and Pythons, and propose the change to the matrix.

    Prints the change as a diff of matrix/matrix.toml. Ends with 0 if nothing is new, with 48 if something is.
    """
    from ci.cli.console import ConsoleReporter
    from ci.engine.package_index import PackageIndex, configured_index
    from ci.files import write_atomically
    from ci.stages.watch import watch as look
    from matrix.model import MATRIX_FILE

    proposal = look(index=PackageIndex(address or configured_index(), timeout_s=timeout))
    progress = ConsoleReporter()
    for line in proposal.news:
        progress.say(line)
    click.echo(proposal.diff, nl=False)
    if apply and proposal.diff:
        write_atomically(MATRIX_FILE, proposal.after.encode())
    if proposal.news:
        context.exit(SOMETHING_NEW)
