"""Commands on a site: publish, serve, yank, snapshot, status, verify and rebuild."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ci.cli.invocation import calling_python, now
from ci.cli.options import site_options, torch_site_option, trust_unsigned_option
from ci.project import ROOT

if TYPE_CHECKING:
    from ci.store.store import Store


@click.command()
@click.argument("wheels", metavar="[WHEEL]...", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--report",
    "reports",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A report of validate or emulate; repeatable. The reports in validation/ count as well.",
)
@click.option("--channel", type=click.Choice(["stable", "candidate"]), help="Require this channel.")
@click.option("--base-url", metavar="URL", help="The address that the site will be served at.")
@trust_unsigned_option
@click.option("--force", is_flag=True, help="Take unfit wheels, too, to candidate and never to stable.")
@site_options
def publish(
    wheels: tuple[Path, ...],
    reports: tuple[Path, ...],
    channel: Any,
    base_url: str | None,
    trust_unsigned: bool,
    force: bool,
    store: Store,
) -> None:
    """Add each WHEEL to the site, or reports of wheels that it has.

    A wheel goes to stable with a passing validation report for exactly its bytes that ran each of its kernels
    and is signed by a key of matrix.toml, else to candidate. For a platform whose proof in matrix.toml is an
    emulation, that report will do if a stable wheel of the version has the same kernels. A report may follow
    later: given alone, it promotes its wheel, or yanks it.
    """
    from ci.cli.console import ConsoleReporter
    from ci.cli.tables import print_checks
    from ci.proof.evidence import Policy
    from ci.stages.audit import audit
    from ci.stages.coverage import context_of
    from ci.stages.publish import publish as publish_wheels
    from matrix.model import read_matrix
    from matrix.planner import plan

    if not wheels and not reports and base_url is None:
        raise click.UsageError("nothing to publish: give a WHEEL, a --report or a --base-url")
    if channel is not None and not wheels:
        raise click.UsageError("--channel applies to the wheels given; give the WHEEL as well")
    matrix = read_matrix()
    audits = {wheel.name: audit(wheel) for wheel in wheels}
    for wheel in wheels:
        if len(wheels) == 1 or not all(check.ok for check in audits[wheel.name]):
            print_checks(wheel, audits[wheel.name])
    with ConsoleReporter() as progress:
        publish_wheels(
            wheels=wheels,
            reports=reports,
            site=store,
            now=now(),
            progress=progress,
            archive=ROOT / "validation",
            channel=channel,
            context=context_of(matrix, plan(matrix), audits, base_url),
            policy=Policy.of(matrix, trust_unsigned=trust_unsigned),
            force=force,
        )
    click.echo(store.name)


@click.command()
@click.option("--base-url", metavar="URL", help="The address that the site is served at.")
@trust_unsigned_option
@site_options
def rebuild(base_url: str | None, trust_unsigned: bool, store: Store) -> None:
    """Write the site's manifest again after it was lost or damaged.

    Reads the wheels, reports and pages of the site, and warns of each fact that they do not hold.
    """
    from ci.cli.console import ConsoleReporter
    from ci.proof.evidence import Policy
    from ci.stages.audit import audit
    from ci.stages.coverage import context_of
    from ci.stages.rebuild import rebuild as rebuild_manifest
    from index_site.hosting import FILES
    from matrix.model import read_matrix
    from matrix.planner import plan

    matrix = read_matrix()
    audits = {}
    for path in sorted(path for path in store.paths(f"{FILES}/") if path.endswith(".whl")):
        with store.local_copy(path) as wheel:
            audits[wheel.name] = audit(wheel)
    with ConsoleReporter() as progress:
        manifest = rebuild_manifest(
            site=store,
            now=now(),
            progress=progress,
            context=context_of(matrix, plan(matrix), audits, base_url),
            policy=Policy.of(matrix, trust_unsigned=trust_unsigned),
            archive=ROOT / "validation",
        )
        progress.say(f"the manifest lists {len(manifest.wheels)} wheels again")


@click.command()
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="The port [a free one].")
@click.option(
    "--host",
    metavar="NAME",
    default="127.0.0.1",
    help="The name or address to serve at [127.0.0.1].",
)
@click.option("--nginx-config", is_flag=True, help="Print how nginx serves the site there, and exit.")
@site_options
def serve(port: int, host: str, nginx_config: bool, store: Store) -> None:
    """Serve the site until Ctrl-C, and print the commands that install from it.

    Only this machine reaches it, unless --host gives a name or address that others reach. A bucket is served
    by its own store; for one, the commands are printed.
    """
    import threading
    from contextlib import suppress

    from ci.stages.revise import stored_manifest
    from index_site.releases import offered_release
    from index_site.snippets import snippets

    if nginx_config:
        click.echo(_nginx_config(store, f"{host}:{port or 8080}"), nl=False)
        return
    release = offered_release(stored_manifest(store)[0])
    with store.served(host=host, port=port) as base:
        click.echo(f"{store.name} is served at {base} until Ctrl-C")
        for way in snippets(base, release[0].channel, release)[:2] if release else ():
            click.echo(f"  {way.command}")
        sys.stdout.flush()
        with suppress(KeyboardInterrupt):
            threading.Event().wait()


def _nginx_config(store: Store, listen: str) -> str:
    from ci.store.folder import FolderStore
    from ci.store.store import MARKER
    from index_site.nginx import nginx_config

    if not isinstance(store, FolderStore):
        raise click.UsageError("--nginx-config applies to a site in a folder")
    return nginx_config(str(store.folder.resolve()), listen=listen, hidden=MARKER)


@click.command()
@click.argument("patterns", metavar="PATTERN...", nargs=-1, required=True)
@click.option("--reason", metavar="TEXT", help="The text that installers show.")
@click.option("--undo", is_flag=True, help="Undo a yank.")
@site_options
def yank(
    patterns: tuple[str, ...],
    reason: str | None,
    undo: bool,
    store: Store,
) -> None:
    """Yank published wheels.

    Installers no longer select a yanked wheel, but still install it where it is pinned.
    """
    from ci.cli.console import ConsoleReporter
    from ci.stages.publish import yank as yank_wheels

    if undo == (reason is not None):
        raise click.UsageError("give either --reason or --undo")
    with ConsoleReporter() as progress:
        yank_wheels(site=store, patterns=patterns, reason=reason, progress=progress)


@click.command()
@click.argument("date", metavar="[DATE]", required=False)
@site_options
def snapshot(date: str | None, store: Store) -> None:
    """Freeze what stable lists under the address of a DATE [today], such as 2026-12-07/simple/.

    The pages of a snapshot never change, whatever is published or yanked later.
    """
    from ci.cli.console import ConsoleReporter
    from ci.stages.snapshot import snapshot as freeze

    with ConsoleReporter() as progress:
        freeze(site=store, date=f"{now():%Y-%m-%d}" if date is None else date, progress=progress)


@click.command()
@click.option("--reason", metavar="TEXT", required=True, help="Why the index becomes shorter.")
@site_options
def prune(reason: str, store: Store) -> None:
    """Remove candidates that are older than release.keep_candidates_days of matrix.toml.

    Stable wheels, those of snapshots and the newest release stay.
    """
    from ci.cli.console import ConsoleReporter
    from ci.stages.prune import prune as prune_wheels
    from matrix.model import read_matrix

    days = read_matrix().release.keep_candidates_days
    with ConsoleReporter() as progress:
        prune_wheels(site=store, days=days, reason=reason, now=now(), progress=progress)


@click.command()
@click.argument("project")
@click.argument("status", type=click.Choice(["active", "deprecated", "archived", "quarantined"]))
@click.option("--reason", metavar="TEXT", default="", help="The text that installers show.")
@site_options
def status(project: str, status: Any, reason: str, store: Store) -> None:
    """Set the status of a PROJECT of the index.

    archived: it takes no new wheels. quarantined: its pages list no files, either. deprecated: something else
    has replaced it.
    """
    from ci.cli.console import ConsoleReporter
    from ci.stages.status import set_status

    with ConsoleReporter() as progress:
        set_status(site=store, project=project, status=status, reason=reason, progress=progress)


@click.command()
@click.option(
    "--python",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The Python of the environments to install into [default: the one that started the farm].",
)
@torch_site_option
@click.option(
    "--torch-wheelhouse",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A folder of wheels to install torch from.",
)
@click.option("--url", metavar="URL", help="The address at which another server serves the site.")
@click.option(
    "--all-tools",
    is_flag=True,
    help="Install by uv lock, by pip lock, without a network, and from the newest snapshot, too.",
)
@site_options
def verify(
    python: Path | None,
    torch_site: Path | None,
    torch_wheelhouse: Path | None,
    url: str | None,
    all_tools: bool,
    store: Store,
) -> None:
    """Serve the site and install from it in every way that its page shows.

    Each way (pip and uv, by index, by links, with hashes) is tried in a fresh environment of its own.
    """
    from ci.cli.console import ConsoleReporter
    from ci.cli.tables import out
    from ci.stages.verify import verify as verify_site

    with ConsoleReporter() as progress:
        checks = verify_site(
            site=store,
            python=python or calling_python(),
            progress=progress,
            address=url,
            all_tools=all_tools,
            torch_site=torch_site,
            wheelhouse=torch_wheelhouse,
        )
    out.print(f"all {len(checks)} checks passed")
