"""The command that runs a wheel for another processor in an emulator."""

from __future__ import annotations

from pathlib import Path

import click

from ci.cli.options import work_option


@click.command()
@click.argument("wheel", metavar="WHEEL", type=click.Path(path_type=Path))
@click.option(
    "--report",
    metavar="R",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="The JSON report to write.",
)
@click.option("--quick", is_flag=True, help="Leave out the slowest checks; the report proves no wheel.")
@work_option
def emulate(wheel: Path, report: Path, quick: bool, work: Path) -> None:
    """Run the host part of WHEEL, for another processor, in an emulator, and write a report.

    A Python for that processor with a real torch imports the wheel, traces it and gets its errors; the
    scenarios of the host libraries run against a double of the driver. No kernel runs. Needs QEMU's user mode
    emulation and apt; ends with 51 where they are missing, and with 52 if a check fails.
    """
    from ci.cli.console import ConsoleReporter
    from ci.stages.emulate import emulate as emulate_wheel
    from matrix.model import read_matrix

    with ConsoleReporter() as progress:
        found = emulate_wheel(
            wheel=wheel,
            report=report,
            matrix=read_matrix(),
            cache=work.resolve() / "cache",
            progress=progress,
            quick=quick,
        )
    click.echo(
        f"{found.wheel_filename}: all {found.checks_passed} checks passed under {found.emulator} with Python "
        f"{found.python} and torch {found.torch}; {report}"
    )
