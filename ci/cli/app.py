"""Assembles the commands, and turns an error into one line and an exit code."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import click

from ci.cli.build import audit, build, plan, variants
from ci.cli.clean import clean
from ci.cli.emulate import emulate
from ci.cli.gate import gate
from ci.cli.gpu import tune, validate
from ci.cli.node import node
from ci.cli.public import watch, workflows
from ci.cli.run import run
from ci.cli.sign import keygen, sign
from ci.cli.site import prune, publish, rebuild, serve, snapshot, status, verify, yank
from ci.errors import DiskFull, FarmError, described
from ci.files import NO_ROOM
from index_site.errors import SiteError
from kernels.errors import KernelsError
from matrix.errors import MatrixError


class _InOrder(click.Group):
    """Lists the commands in the order of the stages."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order in which they were added."""
        del ctx
        return list(self.commands)


def _print_version(ctx: click.Context, _option: click.Parameter, wanted: bool) -> None:
    if wanted:
        from kernels.build.version import RELEASE

        click.echo(f"farm of flash-attn3 {RELEASE}")
        ctx.exit()


@click.group(cls=_InOrder, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Print the version of this tree and exit.",
)
def cli() -> None:
    """Build, check and publish the flash_attn3 wheels.

    The stages are plan, build, audit, validate, publish and verify; each reads and writes plain files and can
    be run alone. `run` runs all of them in order.
    """


_STAGES = (
    *(variants, plan, build, audit, emulate, validate, gate, keygen, sign, publish, serve, yank, prune),
    *(snapshot, status, verify, rebuild, tune, run, clean, node, watch, workflows),
)
for _command in _STAGES:
    cli.add_command(_command)


def run_cli() -> NoReturn:
    """Run the command line; an expected failure is one line on standard error and its own exit code."""
    try:
        code = cli.main(prog_name="farm", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        _fail("interrupted; run the same command again to resume", 130)
    except (FarmError, KernelsError, MatrixError, SiteError) as error:
        _fail(str(error), error.exit_code)
    except BrokenPipeError:
        # The reader is gone: flushing standard output at exit would raise again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        _fail(described(error), DiskFull.exit_code if error.errno in NO_ROOM else FarmError.exit_code)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, exit_code: int) -> NoReturn:
    print(f"farm: error: {message}", file=sys.stderr)
    sys.exit(exit_code)
