"""Options and arguments that several commands share."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ci.errors import FarmError
from ci.project import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable

    from ci.store.store import Store

_S3 = "s3://"

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
_site_option = click.option(
    "--site",
    metavar="PLACE",
    help="The site: a folder, or s3://BUCKET/PREFIX [default: site/ in the work folder].",
)
_endpoint_option = click.option(
    "--endpoint-url", metavar="URL", help="The address of a store that speaks S3 but is not Amazon's."
)


def site_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that say where the site lives, and pass it the ``store`` that they name."""

    @functools.wraps(command)
    def opened(site: str | None, endpoint_url: str | None, work: Path, **options: Any) -> None:
        command(store=_open_site(site, endpoint_url, work), **options)

    return _site_option(_endpoint_option(work_option(opened)))


def _open_site(site: str | None, endpoint_url: str | None, work: Path) -> Store:
    """Return the store that the options of :func:`site_options` name.

    Raises:
        FarmError: they contradict each other, or a store needs packages that are not installed.
    """
    if site is None or not site.startswith(_S3):
        if endpoint_url is not None:
            raise click.UsageError("--endpoint-url applies to a --site s3://BUCKET/PREFIX")
        from ci.store.folder import FolderStore

        return FolderStore(work / "site" if site is None else Path(site))
    try:
        from ci.store.s3 import S3Store
    except ModuleNotFoundError as error:
        raise FarmError(
            f"site: {site}: needs the package {error.name}; pip install --require-hashes -r "
            "requirements/s3.txt installs it"
        ) from error
    return S3Store.connect(site, endpoint_url=endpoint_url)


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
