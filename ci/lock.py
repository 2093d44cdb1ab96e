"""An exclusive lock on a folder, released by the system when its process ends. POSIX only."""

from __future__ import annotations

import fcntl
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ci.files import room_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@contextmanager
def lock(folder: Path, report: Callable[[str], None] | None = None) -> Iterator[int]:
    """Lock ``folder``, made if need be, for this process alone.

    Args:
        folder: holds the file ``lock``.
        report: called with one line if another process holds the lock and this one has to wait.

    Yields:
        The file descriptor of the lock; a program that inherits it holds the lock until it ends.

    Raises:
        DiskFull: there is no room for the folder or the lock file.
    """
    with room_in(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "lock").open("w")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if report is not None:
                report(f"waiting for another farm, which works in {folder}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()
