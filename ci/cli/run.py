"""The command that runs every stage."""

from __future__ import annotations

from pathlib import Path

import click

from ci.cli.invocation import calling_python, now
from ci.cli.options import (
    jobs_option,
    torch_site_option,
    trust_unsigned_option,
    wheelhouse_option,
    work_option,
)


@click.command()
@click.option(
    "--gpu-python",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A Python with torch and a GPU, for validation [default: the one that started the farm].",
)
@click.option(
    "--torch",
    "torch_spec",
    metavar="SPEC",
    default="torch>=2.9",
    show_default=True,
    help="The torch to install beside flash_attn3.",
)
@click.option("--drop-in", is_flag=True, help="Install flash_attn_interface as well.")
@trust_unsigned_option
@torch_site_option
@jobs_option
@wheelhouse_option
@work_option
def run(
    gpu_python: Path | None,
    torch_spec: str,
    torch_site: Path | None,
    drop_in: bool,
    trust_unsigned: bool,
    jobs: int,
    wheelhouse: Path | None,
    work: Path,
) -> None:
    """Run every stage, from source to an installed flash_attn3.

    Builds, audits, validates, publishes and verifies. Ends with flash_attn3 installed by pip, from the new
    site, into env/ of the work folder, and lists what could not be checked here, with the reasons.
    """
    from rich.markup import escape

    from ci.cli.console import ConsoleReporter
    from ci.cli.tables import out
    from ci.engine.local import LocalEngine
    from ci.stages.build import Workshop
    from ci.stages.run import Settings
    from ci.stages.run import run as run_all
    from matrix.model import read_matrix

    settings = Settings(
        workshop=Workshop(work.resolve(), wheelhouse, LocalEngine(jobs)),
        caller=calling_python(),
        gpu_python=gpu_python,
        torch=torch_spec,
        torch_site=torch_site,
        drop_in=drop_in,
        trust_unsigned=trust_unsigned,
    )
    with ConsoleReporter() as progress:
        summary = run_all(settings=settings, matrix=read_matrix(), now=now(), progress=progress)
    for line in summary:
        out.print(escape(line), soft_wrap=True)
