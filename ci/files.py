"""Writes files and folders in one step, so that a crash or a full disk leaves the old ones whole."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ci.errors import DiskFull

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import IO

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""The ``errno`` values that mean "no room left"."""
_SCRATCH = ".scratch-"
_BLOCK = 1 << 20  # bytes read at once


@contextmanager
def room_in(folder: Path) -> Iterator[None]:
    """Turn the system's "no room" errors into one that names ``folder``.

    Raises:
        DiskFull: the block ran out of room.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise DiskFull(
            f"{folder}: no room left ({os.strerror(error.errno or 0)}); nothing there was changed"
        ) from error


def write_atomically(path: Path, data: bytes, *, mode: int | None = None) -> None:
    """Replace ``path`` by ``data``; a reader, or a crash, sees the old file or the new one, whole.

    Args:
        path: the file.
        data: its new contents.
        mode: its permissions; None for those of the process's umask.

    Raises:
        DiskFull: there is no room; the old file is untouched.
    """
    with room_in(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = _scratch_name(path)
        try:
            with scratch.open("xb") as file:
                file.write(data)
                if mode is not None:
                    scratch.chmod(mode)
                file.flush()
                os.fsync(file.fileno())
            scratch.replace(path)
        finally:
            scratch.unlink(missing_ok=True)


@contextmanager
def folder_atomically(path: Path) -> Iterator[Path]:
    """Yield a scratch folder that becomes ``path`` when the block succeeds and is removed when it fails.

    Raises:
        DiskFull: there is no room.
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
def scratch_folder(parent: Path) -> Iterator[Path]:
    """Yield a new folder in ``parent``, made if need be, that is removed in the end."""
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=parent, prefix=_SCRATCH) as folder:
        yield Path(folder)


def clear_scratch(folder: Path) -> None:
    """Remove the scratch files of killed writers below ``folder``; the caller holds the folder's lock."""
    for left in folder.rglob(f"{_SCRATCH}*"):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return sha256_of_blocks(blocks_of(file))


def sha256_of_blocks(blocks: Iterable[bytes]) -> str:
    """Return the SHA-256 of the concatenated blocks, in hex."""
    digest = hashlib.sha256()
    for block in blocks:
        digest.update(block)
    return digest.hexdigest()


def blocks_of(file: IO[bytes]) -> Iterator[bytes]:
    """Yield the rest of an open file, 1 MiB at a time."""
    while block := file.read(_BLOCK):
        yield block


def _scratch_name(path: Path) -> Path:
    return path.with_name(f"{_SCRATCH}{os.getpid()}-{path.name}")
