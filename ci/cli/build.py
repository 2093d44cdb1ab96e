"""Commands up to a checked wheel: variants, plan, build and audit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ci.cli.options import (
    address_option,
    engine_option,
    jobs_option,
    json_option,
    sm_option,
    toolkit_option,
    wheelhouse_option,
    wheels_argument,
    work_option,
)
from ci.project import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from ci.engine.engine import Engine
    from kernels.table import Variant


@click.command()
@click.argument("patterns", metavar="[PATTERN]...", nargs=-1)
@sm_option
@json_option
def variants(patterns: tuple[str, ...], sm: str | None, as_json: bool) -> None:
    """List the kernels that are compiled, or those that match a PATTERN such as 'fwd_*_causal'.

    With --json it prints every field.
    """
    from ci.cli.tables import out, print_json, table
    from kernels.build.payload import variant_fields

    selected = _select_variants(patterns, sm)
    if as_json:
        print_json([variant_fields(variant) for variant in selected])
        return
    # What a name says, such as the head dimension, has no column, so that 80 columns suffice.
    listing = table("name", "code", "tile", "threads", "shared")
    for variant in selected:
        listing.add_row(
            variant.name,
            f"{variant.code} {variant.sm}",
            f"{variant.tile_m} x {variant.tile_n}",
            str(variant.threads),
            f"{variant.smem_bytes / 1024:.0f} KiB",
        )
    out.print(listing)


@click.command()
@click.argument("patterns", metavar="[PATTERN]...", nargs=-1)
@toolkit_option
@sm_option
@json_option
def plan(patterns: tuple[str, ...], toolkit: str | None, sm: str | None, as_json: bool) -> None:
    """Show the artefact that serves each cell of the matrix, or why none does.

    A cell is what a user has, such as linux_x86_64-py312-torch2.11-cu130-sm90; a PATTERN selects cells.
    """
    from ci.cli.console import ConsoleReporter
    from ci.cli.tables import out, print_json, table
    from ci.proof.evidence import read_archive
    from ci.stages.plan import Selection, plan_document, proven_by, select_cells
    from matrix.model import read_matrix
    from matrix.planner import plan as plan_matrix

    matrix = read_matrix()
    whole = plan_matrix(matrix)
    chosen = select_cells(whole, matrix, Selection(patterns, toolkit, sm))
    kept = read_archive(ROOT / "validation", ConsoleReporter().warn)
    document = plan_document(chosen, whole, matrix, *proven_by(kept, matrix))
    if as_json:
        print_json(document)
        return
    artefacts = table("artefact", "tag", "released", "cells served", "stable asks for")
    for row in document["artefacts"]:
        released = "yes" if row["released"] else "no"
        artefacts.add_row(row["artefact"], row["tag"], released, str(row["cells"]), row["proof"])
    out.print(artefacts)
    gpus = table("GPUs", "kernels", "status")
    for row in document["gpus"]:
        gpus.add_row(row["gpus"], row["kernels"], row["status"])
    out.print(gpus)
    reasons = [row.reason for row in chosen.excluded]
    excluded = table("cells", "excluded because")
    for reason in dict.fromkeys(reasons):
        excluded.add_row(str(reasons.count(reason)), reason)
    out.print(excluded)
    if patterns:
        for row in document["cells"]:
            codes = ", ".join(f"{op} {code or 'none'}" for op, code in row["operators"].items())
            out.print(f" {row['cell']} → {row['artefact']}: {codes}; {row['proof']}")
    out.print(f" {len(chosen.served)} cells served, {len(chosen.excluded)} excluded")


@click.command()
@click.argument("artefacts", metavar="[ARTEFACT]...", nargs=-1)
@click.option("--toolkit", metavar="NAME", help="Compile with this toolkit [default: the released one].")
@click.option(
    "--only", metavar="PATTERN", multiple=True, help="Only these kernels, in a wheel for experiments."
)
@sm_option
@click.option("--in-place", is_flag=True, help="Also copy the libraries into flash_attn3/ of this tree.")
@engine_option
@address_option
@jobs_option
@wheelhouse_option
@work_option
def build(
    artefacts: tuple[str, ...],
    toolkit: str | None,
    only: tuple[str, ...],
    sm: str | None,
    in_place: bool,
    engine: str,
    address: str | None,
    jobs: int,
    wheelhouse: Path | None,
    work: Path,
) -> None:
    """Compile the kernels, pack them and make the wheels.

    Makes the wheel of each ARTEFACT, such as linux_x86_64-cuda12.8; without one, the wheel for this machine.
    Needs no CUDA toolkit and no GPU: pip installs the compiler. Unchanged kernels come from the cache. With
    all kernels it also makes the compatibility wheel, which is the same for every platform.
    """
    from ci.cli.console import ConsoleReporter
    from ci.stages.build import Workshop, install_in_place
    from ci.stages.build import build as build_wheel
    from ci.stages.plan import Selection, select_artefacts
    from ci.wheel.compat_wheel import make_compat_wheel
    from kernels.table import VARIANTS
    from matrix.model import read_matrix
    from matrix.planner import plan as plan_matrix

    matrix = read_matrix()
    selected = _select_variants(only, sm)
    workshop = Workshop(work, wheelhouse, _engine(engine, address, jobs))
    with ConsoleReporter() as progress:
        for artefact in select_artefacts(plan_matrix(matrix), matrix, Selection(artefacts, toolkit)):
            wheel = build_wheel(
                artefact=artefact, matrix=matrix, workshop=workshop, progress=progress, variants=selected
            )
            click.echo(wheel)
            if in_place:
                install_in_place(wheel)
        if len(selected) == len(VARIANTS):
            click.echo(make_compat_wheel(work.resolve(), progress))


@click.command()
@wheels_argument
@json_option
def audit(wheels: tuple[Path, ...], as_json: bool) -> None:
    """Check the contents of each WHEEL.

    Checks tags, symbols, libraries, RECORD, kernels, licences and size.
    """
    from dataclasses import asdict

    from ci.cli.tables import print_checks, print_json
    from ci.stages.audit import audit as audit_wheel
    from ci.stages.audit import require_passed

    found = {wheel: audit_wheel(wheel) for wheel in wheels}
    if as_json:
        print_json(
            [
                {"wheel": str(wheel), "checks": [asdict(check) for check in checks]}
                for wheel, checks in found.items()
            ]
        )
    for wheel, checks in found.items():
        if not as_json:
            print_checks(wheel, checks)
    for wheel, checks in found.items():
        require_passed(wheel, checks)


def _engine(name: str, address: str | None, jobs: int) -> Engine:
    """Return the engine of the options."""
    if (name == "ray") != (address is not None):
        raise click.UsageError("--engine ray and --address HOST:PORT belong together")
    if address is not None:
        from ci.engine.cluster import RayEngine

        return RayEngine(address)
    from ci.engine.local import LocalEngine

    return LocalEngine(jobs)


def _select_variants(patterns: tuple[str, ...], sm: str | None) -> tuple[Variant, ...]:
    """Return the variants that match a pattern and are compiled for the GPUs of an SM."""
    from ci.stages.plan import named_sm
    from kernels.errors import UnknownVariantError
    from kernels.table import VARIANTS, select
    from matrix.model import read_matrix

    selected = select(patterns) if patterns else VARIANTS
    if sm is None:
        return selected
    name = named_sm(read_matrix(), sm).name
    chosen = tuple(variant for variant in selected if _sm_of(variant) == name)
    if not chosen:
        raise UnknownVariantError(f"--sm {sm}: none of the kernels {', '.join(patterns) or 'here'} is for it")
    return chosen


def _sm_of(variant: Variant) -> str:
    """Return the matrix's name of the GPUs that a variant is compiled for; PTX is for later ones."""
    from matrix.serving import NEWER, compiled_for

    number, code = compiled_for(variant)
    return NEWER if code == "ptx" else str(number)
