"""Commands for a machine with a GPU: validate and tune."""

from __future__ import annotations

from pathlib import Path

import click

from ci.cli.invocation import run_in_calling_python
from ci.cli.options import jobs_option, wheelhouse_option, work_option


@click.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def validate(arguments: tuple[str, ...]) -> None:
    """Validate a wheel on this machine's GPU and write a report.

    See validate --help.
    """
    run_in_calling_python("validate", *arguments)


@click.command()
@click.argument("patterns", metavar="[PATTERN]...", nargs=-1)
@click.option(
    "--prepare",
    "prepared",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Only write the folder DIR, which a machine with a GPU needs.",
)
@click.option("--run", "ready", metavar="DIR", help="Only time the variants in DIR; needs --report.")
@click.option(
    "--report",
    metavar="R",
    type=click.Path(path_type=Path),
    help="The JSON report to write; without --run [.farm/reports/tune.json].",
)
@click.option(
    "--rounds", type=click.IntRange(min=2), default=11, help="Timed windows of each variant and setting [11]."
)
@jobs_option
@wheelhouse_option
@work_option
def tune(
    patterns: tuple[str, ...],
    prepared: Path | None,
    ready: str | None,
    report: Path | None,
    rounds: int,
    jobs: int,
    wheelhouse: Path | None,
    work: Path,
) -> None:
    """Time candidates for the kernel table against its variants, and recommend.

    A PATTERN selects tuning tasks, such as 'fwd_sm90_bf16_d64_*'; kernels/table lists the candidates. Without
    --prepare and --run this machine does both; --run needs Python, torch, a GPU and DIR only, and takes no
    option but --report and --rounds.
    """
    from ci.cli.console import ConsoleReporter
    from ci.engine.local import LocalEngine
    from ci.stages.build import Workshop
    from ci.stages.plan import Selection, select_artefacts
    from ci.stages.tune import prepare, tuning_tasks
    from matrix.model import read_matrix
    from matrix.planner import plan

    if ready is not None and (patterns or prepared):
        raise click.UsageError("--run times the variants in DIR: it takes neither a PATTERN nor --prepare")
    folder = Path(ready) if ready else prepared or work / "tune"
    if ready is None:
        matrix = read_matrix()
        (artefact,) = select_artefacts(plan(matrix), matrix, Selection())
        with ConsoleReporter() as progress:
            prepare(
                tasks=tuning_tasks(patterns),
                folder=folder,
                artefact=artefact,
                matrix=matrix,
                workshop=Workshop(work, wheelhouse, LocalEngine(jobs)),
                progress=progress,
            )
    if prepared is None:
        report = report or work / "reports" / "tune.json"
        run_in_calling_python("tune", "--run", folder, "--report", report, "--rounds", rounds)
