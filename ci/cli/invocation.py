"""How the farm was started: the calling Python, and the time of the run."""

from __future__ import annotations

import os
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import NoReturn

from ci.project import ROOT


def calling_python() -> Path:
    """Return the Python that started the farm: unlike the farm's own, it may have torch and a GPU."""
    return Path(os.environ.get("FARM_CALLER", sys.executable))


def run_in_calling_python(*arguments: object) -> NoReturn:
    """Replace this process by ``scripts/farm ARGUMENTS`` in the calling Python, outside the farm's venv."""
    command = [str(calling_python()), str(ROOT / "scripts" / "farm"), *map(str, arguments)]
    os.execv(command[0], command)  # noqa: S606 (an argument list, no shell)


def now() -> datetime:
    """Return the current time, or the one that ``SOURCE_DATE_EPOCH`` fixes."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    return datetime.now(timezone.utc) if epoch is None else datetime.fromtimestamp(int(epoch), timezone.utc)
