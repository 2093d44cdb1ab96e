"""Runs a command of this room: an expected error becomes one line on standard error and an exit code."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ci.errors import FarmError

if TYPE_CHECKING:
    from collections.abc import Callable


def exit_code_of(command: Callable[[], int]) -> int:
    """Run a command and return its exit code, or the code of the FarmError or OSError that ended it."""
    try:
        return command()
    except FarmError as error:
        print(f"farm: error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"farm: error: {error}", file=sys.stderr)
        return FarmError.exit_code
