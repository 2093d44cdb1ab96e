"""The command that holds a report's speed against an earlier one."""

from __future__ import annotations

from pathlib import Path

import click

from ci.project import ROOT


@click.command()
@click.argument("report", metavar="REPORT", type=click.Path(path_type=Path))
@click.option(
    "--against",
    metavar="R",
    type=click.Path(path_type=Path),
    help="The earlier report [the latest of the same GPU in validation/].",
)
def gate(report: Path, against: Path | None) -> None:
    """Fail if the wheel of REPORT is slower than that of an earlier report.

    Compares, race by race, the ratios to the other implementations that both raced: a cell may lose 3 %, the
    mean of all 1 %. Ends with 50 if one loses more, and with 51 if the reports cannot be compared.
    """
    from ci.cli.console import ConsoleReporter
    from ci.cli.tables import out, table
    from ci.errors import NotJudged, SlowerThanBefore
    from ci.proof.evidence import Validation, read_archive
    from ci.proof.report import read_report
    from ci.proof.speed_gate import compare_speed

    new = read_report(report)
    if against is None:
        archive = read_archive(ROOT / "validation", ConsoleReporter().warn)
        kept = [found.report for found in archive if isinstance(found, Validation)]
        earlier = [found for found in kept if found.gpu == new.gpu and found.wheel_sha256 != new.wheel_sha256]
        if not earlier:
            raise NotJudged(f"--against: should be given, for validation/ has no other report of a {new.gpu}")
        baseline = max(earlier, key=lambda found: found.finished)
    else:
        baseline = read_report(against)
    comparison = compare_speed(new, baseline)
    listing = table("race", "against", "before", "now", "kept")
    for row in sorted(comparison.rows, key=lambda row: row.kept):
        listing.add_row(
            row.name,
            ", ".join(row.before),
            ", ".join(f"{ratio:.3f}" for ratio in row.before.values()),
            ", ".join(f"{ratio:.3f}" for ratio in row.after.values()),
            f"[{'green' if row.passed else 'red'}]{row.kept:.3f}[/]",
        )
    out.print(listing)
    out.print(f" geometric mean of {len(comparison.rows)} races: {comparison.mean:.3f}")
    if not comparison.passed:
        slower = [row.name for row in comparison.rows if not row.passed]
        what = ", ".join(slower) if slower else "the mean of all races"
        raise SlowerThanBefore(f"{new.wheel_filename}: slower than {baseline.wheel_filename}: {what}")
