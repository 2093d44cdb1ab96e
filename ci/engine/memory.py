"""How much memory this machine, or the container around this process, has to spare."""

from __future__ import annotations

from pathlib import Path

import psutil

_CONTROL_GROUP = Path("/sys/fs/cgroup")


def available_memory(control_group: Path = _CONTROL_GROUP) -> int:
    """Return the bytes of memory that are free without swapping, within the limit of a container.

    Args:
        control_group: the folder of this process's control group; a container sees its own there.
    """
    free = int(psutil.virtual_memory().available)
    limit, used = _number(control_group / "memory.max"), _number(control_group / "memory.current")
    if limit is None or used is None:
        return free
    return max(0, min(free, limit - used + _droppable(control_group / "memory.stat")))


def _number(file: Path) -> int | None:
    """Return the number in a file; None if there is no such file, or the word ``max`` in it."""
    try:
        return int(file.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _droppable(statistics: Path) -> int:
    """Return the bytes of files in memory that the system drops when a program asks for more."""
    lines = (line.split() for line in statistics.read_text(encoding="ascii").splitlines())
    return sum(int(value) for name, value in lines if name == "inactive_file")
