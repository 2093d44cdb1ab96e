"""Runs one section of an installed wheel's checks in a process of its own and reads its events."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_STDERR_TAIL = 2000  # characters


class ChecksFailed(Exception):
    """The process did not finish its section; the text holds its exit status and the end of its stderr."""


def run_section(
    section: str, options: Sequence[str], *, site: Path, folder: Path
) -> Iterator[dict[str, Any]]:
    """Yield the events of a section as they happen, except the last one, ``end``.

    Args:
        section: ``environment``, or one of the sections that its event lists.
        options: of ``python -m flash_attn3.checks``.
        site: the folder the wheel is installed in; first on ``sys.path``.
        folder: an empty working folder, so that no source tree is imported by accident.

    Raises:
        ChecksFailed: the process crashed, or ended before its section.
    """
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONHOME"}
    paths = [str(site), *filter(None, [inherited.get("PYTHONPATH")])]
    variables = {**inherited, "PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "flash_attn3.checks", section, *options]
    ended = False
    with (
        tempfile.TemporaryFile(mode="w+", encoding="utf-8", errors="replace") as stderr,
        subprocess.Popen(
            command, cwd=folder, env=variables, stdout=subprocess.PIPE, stderr=stderr, text=True
        ) as process,
    ):
        for line in process.stdout or ():
            event = _parse(line)
            ended = ended or event.get("event") == "end"
            if event and not ended:
                yield event
        status = process.wait()
        stderr.seek(0)
        tail = stderr.read()[-_STDERR_TAIL:].strip()
    if status != 0 or not ended:
        raise ChecksFailed(f"exit status {status}; {tail or 'nothing on stderr'}")


def _parse(line: str) -> dict[str, Any]:
    """Return the event of a line; {} for a line that torch or a driver printed."""
    try:
        event = json.loads(line)
    except ValueError:
        return {}
    return event if isinstance(event, dict) and "event" in event else {}
