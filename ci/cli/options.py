"""Options and arguments that several commands share."""

from __future__ import annotations

import os
from pathlib import Path

import click

from ci.project import ROOT

json_option = click.option("--json", "as_json", is_flag=True, help="Print machine-readable JSON.")
toolkit_option = click.option("--toolkit", metavar="NAME", help="Only this toolkit, such as 12.8.")
sm_option = click.option("--sm", metavar="SM", help="Only this SM, such as 90.")
work_option = click.option(
    "--work",
    type=click.Path(file_okay=False, path_type=Path),
    default=ROOT / ".farm",
    envvar="FARM_WORK",
    help="The work folder: environments, cache, wheels, reports, site [.farm in the tree; env: FARM_WORK].",
)
wheelhouse_option = click.option(
    "--wheelhouse",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    envvar="FARM_WHEELHOUSE",
    help="A folder of toolkit wheels; pip downloads those it lacks [env: FARM_WHEELHOUSE].",
)
jobs_option = click.option(
    "-j",
    "--jobs",
    type=click.IntRange(min=1),
    default=len(os.sched_getaffinity(0)),
    help="Parallel compiles [all cores].",
)
engine_option = click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Compile on this machine, or on the nodes of a Ray cluster (see farm node).",
)
address_option = click.option(
    "--address", metavar="HOST:PORT", help="The cluster's first node, for --engine ray."
)
wheels_argument = click.argument(
    "wheels", metavar="WHEEL...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
site_option = click.option(
    "--site",
    type=click.Path(file_okay=False, path_type=Path),
    help="The site's folder [default: site/ in the work folder].",
)
trust_unsigned_option = click.option(
    "--trust-unsigned",
    is_flag=True,
    help="Let reports without a signature put wheels on stable; the site's page then says so.",
)
torch_site_option = click.option(
    "--torch-site",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A site-packages folder whose torch is used instead of installing one.",
)
