"""Print what is installed and whether it can run on this machine; ``selftest`` checks the results there.

``doctor`` says what is missing on this machine, and explains an error.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from flash_attn3._installation import format_installation, inspect_installation
from flash_attn3.doctor.command import add_arguments, run
from flash_attn3.doctor.installed import installed_release

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        Without a command: 0 when attention can run on this machine, 1 when not. ``selftest``: 0 when every
        check passed, 1 when one failed, 2 when this machine cannot run them. ``doctor``: 0 when all is well,
        1 when something is wrong, 2 when an argument is bad.
    """
    parser = argparse.ArgumentParser(prog="python -m flash_attn3", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    commands = parser.add_subparsers(dest="command")
    selftest = commands.add_parser(
        "selftest", help="check this install on this machine's GPU, in under a minute"
    )
    selftest.add_argument("--device", type=int, default=0, help="CUDA device ordinal (default: 0)")
    doctor = commands.add_parser("doctor", help="say what is missing here, or explain an error")
    add_arguments(doctor)
    arguments = parser.parse_args(argv)
    if arguments.command == "doctor":  # behind another option; else the package ran it before torch
        return run(arguments, installed_release())
    if arguments.command == "selftest":
        # Only this command needs the checks.
        from flash_attn3.checks.selftest import run_selftest  # noqa: PLC0415

        return run_selftest(arguments.device)
    found = inspect_installation()
    print(json.dumps(found.as_dict(), indent=1) if arguments.json else format_installation(found))
    return 1 if found.reason else 0


if __name__ == "__main__":
    sys.exit(main())
