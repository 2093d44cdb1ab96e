"""How the farm was started: the calling Python, and the time of the run."""

from __future__ import annotations

import os
import re
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import NoReturn

from ci.errors import InvalidVariable
from ci.project import ROOT

_LAST_SECOND = 253_402_300_799  # of the year 9999


def calling_python() -> Path:
    """Return the Python that started the farm: unlike the farm's own, it may have torch and a GPU."""
    return Path(os.environ.get("FARM_CALLER", sys.executable))


def run_in_calling_python(*arguments: object) -> NoReturn:
    """Replace this process by ``scripts/farm ARGUMENTS`` in the calling Python, outside the farm's venv."""
    command = [str(calling_python()), str(ROOT / "scripts" / "farm"), *map(str, arguments)]
    os.execv(command[0], command)  # noqa: S606 (an argument list, no shell)


def now() -> datetime:
    """Return the current time, or the one that ``SOURCE_DATE_EPOCH`` fixes.

    Raises:
        InvalidVariable: ``SOURCE_DATE_EPOCH`` is not a number of seconds up to the end of the year 9999.
    """
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    if epoch is None:
        return datetime.now(timezone.utc)
    if not re.fullmatch(r"[0-9]{1,12}", epoch) or int(epoch) > _LAST_SECOND:
        raise InvalidVariable(
            f"SOURCE_DATE_EPOCH: should be whole seconds since 1970, 0 to {_LAST_SECOND}, got {epoch!r}"
        )
    return datetime.fromtimestamp(int(epoch), timezone.utc)
