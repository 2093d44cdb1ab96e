"""The command that makes this machine a node of a cluster."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from ci.cli.options import work_option

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_STORE_BYTES = 500_000_000  # for the toolkits and the objects on their way
_TOKENS = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


@click.command()
@click.option(
    "--address", metavar="HOST:PORT", help="Join the cluster of this first node [default: start one]."
)
@click.option(
    "--port", type=click.IntRange(1, 65535), default=6379, show_default=True, help="Of a first node."
)
@click.option("--cpus", type=click.IntRange(min=0), help="Compiles at once on this node [all cores].")
@click.option(
    "--memory", metavar="MB", type=click.IntRange(min=500), help="Memory for compiles [most of it]."
)
@work_option
def node(address: str | None, port: int, cpus: int | None, memory: int | None, work: Path) -> None:
    """Make this machine a node that compiles for `farm build --engine ray`.

    Runs until it is interrupted. The first node makes a token if there is none; the other nodes, and the
    machine that builds, need it: in ~/.ray/auth_token, or where RAY_AUTH_TOKEN_PATH says. Whoever has it can
    run programs on the nodes, and it travels without encryption: keep the cluster in a private network.
    """
    where = (
        ["--address", address] if address else ["--head", "--port", str(port), "--include-dashboard", "false"]
    )
    options = ["--block", "--disable-usage-stats", "--object-store-memory", str(_STORE_BYTES)]
    options += [] if cpus is None else ["--num-cpus", str(cpus)]
    options += [] if memory is None else ["--memory", str(memory * 1_000_000)]
    environment = {
        "RAY_health_check_period_ms": "1000",  # a node that is gone is missed sooner; a slow one no sooner
        **os.environ,
        "RAY_AUTH_MODE": "token",
        "FARM_WORK": str(work.resolve()),
    }
    if address is None and not any(name in os.environ for name in _TOKENS):
        _make_token()
    os.execve(_RAY[0], [*_RAY, "start", *where, *options], environment)  # noqa: S606 (an argument list, no shell)


_RAY: Sequence[str] = (sys.executable, "-I", "-c", "from ray.scripts.scripts import main; main()")


def _make_token() -> None:
    """Make the token in its usual place, if there is none."""
    import subprocess

    subprocess.run([*_RAY, "get-auth-token", "--generate"], check=True, stdout=subprocess.DEVNULL)
