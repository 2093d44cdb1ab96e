"""The farm's command line: one subcommand a stage, each over plain files."""

from __future__ import annotations

import errno
import json
import os
import sys
import zipfile
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ci.errors import DiskFull, FarmError
from ci.files import write_atomically
from ci.progress import ConsoleReporter
from ci.project import ROOT
from ci.stages.plan import Selection, named_sm, plan_document, select_artefacts, select_cells
from kernels.errors import KernelsError, UnknownVariantError
from kernels.table import VARIANTS, Variant, select
from matrix.errors import MatrixError
from matrix.model import read_matrix
from matrix.planner import plan as make_plan
from matrix.serving import NEWER, compiled_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ci.check import Check

# Where the tables and results go; what is being done is told on standard error.
_out = Console(highlight=False)
if not _out.is_terminal:
    _out.width = 200  # a file or a pipe has no width; the terminal's default would cut names

_json = click.option("--json", "as_json", is_flag=True, help="Print machine-readable JSON.")
_toolkit = click.option("--toolkit", metavar="NAME", help="Only this toolkit, such as 12.8.")
_sm = click.option("--sm", metavar="SM", help="Only this SM, such as 90.")
_work = click.option(
    "--work",
    type=click.Path(file_okay=False, path_type=Path),
    default=ROOT / ".farm",
    help="The work folder: cache, wheels, reports and site lie in it [.farm in the tree].",
)
_wheelhouse = click.option(
    "--wheelhouse",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    envvar="FARM_WHEELHOUSE",
    help="A folder of toolkit wheels to take from before asking pip [env: FARM_WHEELHOUSE].",
)
_jobs = click.option(
    "-j",
    "--jobs",
    type=click.IntRange(min=1),
    default=len(os.sched_getaffinity(0)),
    help="Compiles at once [all cores].",
)
_wheel = click.argument(
    "wheels", metavar="WHEEL...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
_site = click.option(
    "--site",
    type=click.Path(file_okay=False, path_type=Path),
    help="The site's folder [default: site/ in the work folder].",
)


_torch_site = click.option(
    "--torch-site",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A site-packages folder whose torch to use instead of installing one.",
)


class _InOrder(click.Group):
    """Lists the commands in the order of the stages."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands as they were added."""
        del ctx
        return list(self.commands)


@click.group(cls=_InOrder, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
def cli() -> None:
    """Build, check and publish the flash_attn3 wheels.

    The stages are plan, build, audit, validate, publish and verify; each reads and writes plain files, and
    can be run alone. `run` does them all in order.
    """


@cli.command()
@click.argument("patterns", metavar="[PATTERN]...", nargs=-1)
@_sm
@_json
def variants(patterns: tuple[str, ...], sm: str | None, as_json: bool) -> None:
    """List the kernels that are compiled.

    A PATTERN such as 'fwd_*_causal' narrows them down.
    """
    from kernels.build.payload import variant_fields

    rows = _select_variants(patterns, sm)
    if as_json:
        _print_json([variant_fields(row) for row in rows])
        return
    table = _table("name", "op", "code", "dtype", "head_dim", "mask", "tile", "threads", "shared memory")
    for row in rows:
        dims = f"{row.head_dim}/{row.head_dim_v}" if row.head_dim != row.head_dim_v else f"{row.head_dim}"
        tile, memory = f"{row.tile_m} x {row.tile_n}", f"{row.smem_bytes / 1024:.0f} KiB"
        code = f"{row.code} {row.sm}"
        table.add_row(row.name, row.op, code, row.dtype_in, dims, row.mask, tile, str(row.threads), memory)
    _out.print(table)


@cli.command()
@click.argument("patterns", metavar="[PATTERN]...", nargs=-1)
@_toolkit
@_sm
@_json
def plan(patterns: tuple[str, ...], toolkit: str | None, sm: str | None, as_json: bool) -> None:
    """Show what serves each cell of the matrix, or why nothing does.

    A cell is what a user has, such as linux_x86_64-py312-torch2.11-cu130-sm90; a PATTERN narrows them down.
    """
    from ci.proof.evidence import read_archive

    matrix = read_matrix()
    whole = make_plan(matrix)
    chosen = select_cells(whole, matrix, Selection(patterns, toolkit, sm))
    proofs = [found.proof for found in read_archive(ROOT / "validation")]
    document = plan_document(chosen, whole, matrix, proofs)
    if as_json:
        _print_json(document)
        return
    artefacts = _table("artefact", "tag", "released", "cells served")
    for row in document["artefacts"]:
        artefacts.add_row(row["artefact"], row["tag"], "yes" if row["released"] else "no", str(row["cells"]))
    _out.print(artefacts)
    gpus = _table("GPUs", "kernels", "status")
    for row in document["gpus"]:
        gpus.add_row(row["gpus"], row["kernels"], row["status"])
    _out.print(gpus)
    reasons = [row.reason for row in chosen.excluded]
    excluded = _table("cells", "excluded because")
    for reason in dict.fromkeys(reasons):
        excluded.add_row(str(reasons.count(reason)), reason)
    _out.print(excluded)
    if patterns:
        for served in chosen.served:
            _out.print(f" {served.cell} → {served.artefact}, {served.kernels} kernels")
    _out.print(f" {len(chosen.served)} cells served, {len(chosen.excluded)} excluded")


@cli.command()
@click.argument("artefacts", metavar="[ARTEFACT]...", nargs=-1)
@click.option("--toolkit", metavar="NAME", help="Compile with this toolkit [default: the released one].")
@click.option("--only", metavar="PATTERN", multiple=True, help="Only these kernels, in a wheel for trying.")
@_sm
@click.option("--in-place", is_flag=True, help="Also put the libraries into flash_attn3/ of this tree.")
@_jobs
@_wheelhouse
@_work
def build(
    artefacts: tuple[str, ...],
    toolkit: str | None,
    only: tuple[str, ...],
    sm: str | None,
    in_place: bool,
    jobs: int,
    wheelhouse: Path | None,
    work: Path,
) -> None:
    """Compile the kernels, pack them and make the wheels.

    Makes the wheel of each ARTEFACT, such as linux_x86_64-cuda12.8; without one, that for this machine. Needs
    no CUDA toolkit and no GPU: the compiler comes from pip. What is unchanged comes from the cache.
    With all kernels it also makes the compatibility wheel, which is the same for every platform.
    """
    from ci.stages.build import Workshop
    from ci.stages.build import build as build_wheel
    from ci.wheel.drop_in import make_compat_wheel

    matrix = read_matrix()
    rows = _select_variants(only, sm)
    workshop = Workshop(work, wheelhouse, jobs)
    with ConsoleReporter() as progress:
        for artefact in select_artefacts(make_plan(matrix), matrix, Selection(artefacts, toolkit)):
            wheel = build_wheel(
                artefact=artefact, matrix=matrix, workshop=workshop, progress=progress, variants=rows
            )
            click.echo(wheel)
            if in_place:
                _install_in_place(wheel)
        if len(rows) == len(VARIANTS):
            click.echo(make_compat_wheel(work.resolve(), progress))


@cli.command()
@_wheel
@_json
def audit(wheels: tuple[Path, ...], as_json: bool) -> None:
    """Judge each WHEEL by its bytes alone.

    Checks tags, symbols, libraries, RECORD, kernels, licences and size.
    """
    from ci.stages.audit import audit as audit_wheel
    from ci.stages.audit import require_passed

    found = {wheel: audit_wheel(wheel) for wheel in wheels}
    if as_json:
        _print_json(
            [
                {
                    "wheel": str(wheel),
                    "checks": [{"name": c.name, "ok": c.ok, "detail": c.detail} for c in checks],
                }
                for wheel, checks in found.items()
            ]
        )
    for wheel, checks in found.items():
        if not as_json:
            _print_checks(wheel, checks)
    for wheel, checks in found.items():
        require_passed(wheel, checks)


@cli.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def validate(arguments: tuple[str, ...]) -> None:
    """Prove a wheel on this machine's GPU and write a report.

    See validate --help.
    """
    _on_callers_python("validate", *arguments)


@cli.command()
@click.argument("wheels", metavar="[WHEEL]...", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--report",
    "reports",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A validation report; may be given several times. Those of validation/ count too.",
)
@click.option("--channel", type=click.Choice(["stable", "candidate"]), help="Insist on a channel.")
@click.option("--base-url", metavar="URL", help="Where the site will be served.")
@_site
@_work
def publish(
    wheels: tuple[Path, ...],
    reports: tuple[Path, ...],
    channel: Any,
    base_url: str | None,
    site: Path | None,
    work: Path,
) -> None:
    """Add each WHEEL to the site, or reports of wheels that it has.

    A wheel goes to stable with a passing validation report for exactly its bytes, else to candidate. A report
    may come later: then it alone is given, and the wheel it speaks of is promoted, or yanked.
    """
    from ci.stages.audit import audit as audit_wheel
    from ci.stages.coverage import exclusions, support_by_tag
    from ci.stages.listing import Context
    from ci.stages.publish import publish as publish_wheels

    if not wheels and not reports and base_url is None:
        raise click.UsageError("nothing to publish: give a WHEEL, a --report or a --base-url")
    if channel is not None and not wheels:
        raise click.UsageError("--channel speaks of the wheels given; give the WHEEL again")
    matrix = read_matrix()
    audits = {wheel.name: audit_wheel(wheel) for wheel in wheels}
    for wheel in wheels:
        _print_checks(wheel, audits[wheel.name])
    context = Context(audits, support_by_tag(matrix, make_plan(matrix)), exclusions(matrix), base_url)
    with ConsoleReporter() as progress:
        publish_wheels(
            wheels=wheels,
            reports=reports,
            site=site or work / "site",
            now=_now(),
            progress=progress,
            archive=ROOT / "validation",
            channel=channel,
            context=context,
        )
    click.echo(site or work / "site")


@cli.command()
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="The port [a free one].")
@_site
@_work
def serve(port: int, site: Path | None, work: Path) -> None:
    """Serve the site on this machine until Ctrl-C, and show the lines that install from it."""
    import threading
    from contextlib import suppress

    from ci.store.serve import served
    from index_site.manifest import read_manifest
    from index_site.releases import offered_release
    from index_site.snippets import snippets

    folder = site or work / "site"
    release = offered_release(read_manifest(folder))
    with served(folder, port=port) as base:
        click.echo(f"{folder} is served at {base} until Ctrl-C")
        for way in snippets(base, release[0].channel, release)[:2] if release else ():
            click.echo(f"  {way.command}")
        sys.stdout.flush()
        with suppress(KeyboardInterrupt):
            threading.Event().wait()


@cli.command()
@click.argument("patterns", metavar="PATTERN...", nargs=-1, required=True)
@click.option("--reason", metavar="TEXT", help="What installers tell their users.")
@click.option("--undo", is_flag=True, help="Take a yank back.")
@_site
@_work
def yank(patterns: tuple[str, ...], reason: str | None, undo: bool, site: Path | None, work: Path) -> None:
    """Take published wheels out of use.

    Installers stop choosing them, but whoever pinned one still gets it.
    """
    from ci.stages.publish import yank as yank_wheels

    if undo == (reason is not None):
        raise click.UsageError("give either --reason or --undo")
    yank_wheels(site=site or work / "site", patterns=patterns, reason=reason)


@cli.command()
@click.option(
    "--python",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The Python to install into environments of [default: the one that calls this].",
)
@_torch_site
@click.option(
    "--torch-wheelhouse",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A folder of wheels to install torch from.",
)
@_site
@_work
def verify(
    python: Path | None, torch_site: Path | None, torch_wheelhouse: Path | None, site: Path | None, work: Path
) -> None:
    """Serve the site and install from it in every way it shows.

    Each way (pip and uv, by index, by links, with hashes) is tried in a fresh environment of its own.
    """
    from ci.stages.verify import verify as verify_site

    with ConsoleReporter() as progress:
        checks = verify_site(
            site=site or work / "site",
            python=python or _caller(),
            progress=progress,
            torch_site=torch_site,
            wheelhouse=torch_wheelhouse,
        )
    _out.print(f"all {len(checks)} checks passed")


@cli.command()
@click.argument("patterns", metavar="[PATTERN]...", nargs=-1)
@click.option(
    "--prepare",
    "prepared",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Only fill DIR with what a machine with a GPU needs.",
)
@click.option("--run", "ready", metavar="DIR", help="Only time what --prepare put into DIR; needs --report.")
@click.option(
    "--report",
    metavar="R",
    type=click.Path(path_type=Path),
    help="The JSON report to write; without --run [.farm/reports/tune.json].",
)
@click.option("--rounds", type=click.IntRange(min=2), default=11, help="Windows a row and setting [11].")
@_jobs
@_wheelhouse
@_work
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
    """Time the candidates for the kernel table against its rows, and recommend.

    A PATTERN names cases, such as 'fwd_sm90_bf16_d64_*'. The candidates are in kernels/table/families.
    Without --prepare and --run both are done here; --run needs nothing but Python, torch, a GPU and DIR, and
    takes no option but --report and --rounds.
    """
    from ci.stages.build import Workshop
    from ci.stages.tune import prepare, tune_cases

    if ready is not None and (patterns or prepared):
        raise click.UsageError("--run times what DIR holds: it takes neither a PATTERN nor --prepare")
    folder = Path(ready) if ready else prepared or work / "tune"
    if ready is None:
        matrix = read_matrix()
        (artefact,) = select_artefacts(make_plan(matrix), matrix, Selection())
        with ConsoleReporter() as progress:
            prepare(
                cases=tune_cases(patterns),
                folder=folder,
                artefact=artefact,
                matrix=matrix,
                workshop=Workshop(work, wheelhouse, jobs),
                progress=progress,
            )
    if prepared is None:
        report = report or work / "reports" / "tune.json"
        _on_callers_python("tune", "--run", folder, "--report", report, "--rounds", rounds)


@cli.command()
@click.option(
    "--gpu-python",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A Python with torch that sees the GPU [default: the one that calls this].",
)
@click.option(
    "--torch",
    "torch_spec",
    metavar="SPEC",
    default="torch>=2.9",
    show_default=True,
    help="What torch to install beside flash_attn3.",
)
@click.option("--drop-in", is_flag=True, help="Install flash_attn_interface as well.")
@_torch_site
@_jobs
@_wheelhouse
@_work
def run(
    gpu_python: Path | None,
    torch_spec: str,
    torch_site: Path | None,
    drop_in: bool,
    jobs: int,
    wheelhouse: Path | None,
    work: Path,
) -> None:
    """Do everything, from source to an installed flash_attn3.

    Builds, audits, validates, publishes, verifies. Ends with flash_attn3 installed by pip, from the site just
    made, into env/ of the work folder, and says what could not be checked here and why.
    """
    from ci.stages.build import Workshop
    from ci.stages.run import Settings
    from ci.stages.run import run as run_all

    settings = Settings(
        workshop=Workshop(work.resolve(), wheelhouse, jobs),
        caller=_caller(),
        gpu_python=gpu_python,
        torch=torch_spec,
        torch_site=torch_site,
        drop_in=drop_in,
    )
    with ConsoleReporter() as progress:
        outcome = run_all(settings=settings, matrix=read_matrix(), now=_now(), progress=progress)
    for line in outcome:
        _out.print(escape(line), soft_wrap=True)


def run_cli() -> NoReturn:
    """Run the command line; an expected failure is one line on standard error and its own exit code."""
    try:
        cli.main(prog_name="farm", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        _fail("interrupted; the same command goes on from here", 130)
    except (FarmError, KernelsError, MatrixError) as error:
        _fail(str(error), error.exit_code)
    except BrokenPipeError:
        # Nobody reads on: let what is left to be flushed go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        _fail(str(error), DiskFull.exit_code if error.errno == errno.ENOSPC else FarmError.exit_code)
    sys.exit(0)


def _caller() -> Path:
    """Return the Python that started the farm: unlike this one, it may have torch and see a GPU."""
    return Path(os.environ.get("FARM_CALLER", sys.executable))


def _on_callers_python(*arguments: object) -> NoReturn:
    """Go on as a program of the caller's Python, with its torch and GPU, and without this environment."""
    command = [str(_caller()), str(ROOT / "scripts" / "farm"), *map(str, arguments)]
    os.execv(command[0], command)  # noqa: S606 (an argument list, no shell)


def _fail(message: str, exit_code: int) -> NoReturn:
    print(f"farm: error: {message}", file=sys.stderr)
    sys.exit(exit_code)


def _select_variants(patterns: tuple[str, ...], sm: str | None) -> tuple[Variant, ...]:
    rows = select(patterns) if patterns else VARIANTS
    if sm is None:
        return rows
    name = named_sm(read_matrix(), sm).name
    chosen = tuple(row for row in rows if _sm_of(row) == name)
    if not chosen:
        raise UnknownVariantError(f"--sm {sm}: none of the kernels {', '.join(patterns) or 'here'} is for it")
    return chosen


def _sm_of(row: Variant) -> str:
    """Return the matrix's name of the GPUs that a row is compiled for; PTX is for those yet to come."""
    number, kind = compiled_for(row)
    return NEWER if kind == "ptx" else str(number)


def _install_in_place(wheel: Path) -> None:
    """Put the compiled part of a wheel into the source tree, so that it imports from there."""
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.startswith("flash_attn3/lib/") or name == "flash_attn3/build.json":
                write_atomically(ROOT / name, archive.read(name))


def _print_checks(wheel: Path, checks: Sequence[Check]) -> None:
    table = _table(f"audit of {wheel.name}", "", "seen")
    for check in checks:
        table.add_row(check.name, "[green]ok[/]" if check.ok else "[red]FAILED[/]", escape(check.detail))
    _out.print(table)


def _table(*columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1))
    table.add_column(columns[0], no_wrap=True)
    for column in columns[1:]:
        table.add_column(column)
    return table


def _print_json(document: object) -> None:
    click.echo(json.dumps(document, indent=1))


def _now() -> datetime:
    """Return the time, or the one that ``SOURCE_DATE_EPOCH`` fixes."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    return datetime.now(timezone.utc) if epoch is None else datetime.fromtimestamp(int(epoch), timezone.utc)
