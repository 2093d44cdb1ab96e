"""Write files so that a kill or a full disk leaves the old ones whole."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ci.errors import DiskFull

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_SCRATCH = ".scratch-"


@contextmanager
def room_in(folder: Path) -> Iterator[None]:
    """Turn the system's "no room" errors into one that names ``folder``.

    Raises:
        DiskFull: if the block ran out of room.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise DiskFull(
            f"{folder}: no room left ({os.strerror(error.errno or 0)}); nothing there was changed"
        ) from error


def write_atomically(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path``; a reader sees the old file or the new one, whole, and so does a crash.

    Raises:
        DiskFull: if there is no room; the old file is untouched.
    """
    with room_in(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = _scratch_name(path)
        try:
            with scratch.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            scratch.replace(path)
        finally:
            scratch.unlink(missing_ok=True)


@contextmanager
def folder_atomically(path: Path) -> Iterator[Path]:
    """Fill a scratch folder that becomes ``path`` when the block ends well, and vanishes when it does not.

    Raises:
        DiskFull: if there is no room.
    """
    with room_in(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = _scratch_name(path)
        scratch.mkdir()
        try:
            yield scratch
            scratch.replace(path)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def lock(folder: Path, tell: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold ``folder`` for this process alone; ``tell`` hears if another has to be waited for."""
    with room_in(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "lock").open("w")
    with file:
        # The system releases it when the process ends, however it ends.
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if tell is not None:
                tell(f"waiting for another farm, which works in {folder}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def clear_scratch(folder: Path) -> None:
    """Remove what writers that were killed left anywhere in ``folder``; nobody may be writing there."""
    for left in folder.rglob(f"{_SCRATCH}*"):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _scratch_name(path: Path) -> Path:
    return path.with_name(f"{_SCRATCH}{os.getpid()}-{path.name}")
