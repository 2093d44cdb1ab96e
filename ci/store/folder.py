"""The folder of a site: which folders are refused, and the lock for writing."""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ci.errors import UnsafeSite
from ci.files import clear_scratch
from ci.lock import lock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MARKER = ".flash-attn3-site"
"""The folder inside every site that marks it as one; it holds the lock and the wheels being checked."""
READABLE = 0o644
"""Permissions of a served file."""


@contextmanager
def held_site(
    site: Path, *, create: bool = True, report: Callable[[str], None] | None = None
) -> Iterator[Path]:
    """Lock the site's folder for writing, and yield it.

    Args:
        site: the folder.
        create: whether to make it if need be.
        report: called with one line if another process holds the site and this one has to wait.

    Raises:
        UnsafeSite: the folder holds no site and is not to be made; it is or contains the home or the current
            folder, is the root of a repository, is not a folder, cannot be written, or holds files that are
            not a site's.
        DiskFull: there is no room even for an empty site.
    """
    root = site.resolve()
    if not create and not (root / MARKER).is_dir():
        raise UnsafeSite(f"site: {root} is not a site of this farm; give the folder of one with --site")
    try:
        _refuse_foreign(root)
        root.mkdir(parents=True, exist_ok=True)
        (root / MARKER).mkdir(exist_ok=True)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise UnsafeSite(f"site: {root} cannot be used as a folder: {error.strerror}") from error
    with lock(root / MARKER, report):
        clear_scratch(root)
        yield root


def open_to_readers(root: Path) -> None:
    """Let every user read the site, as its web server must: its folders and files, but for the marker."""
    for folder, folders, files in os.walk(root):
        if MARKER in folders:
            folders.remove(MARKER)
        _permit(Path(folder), 0o755)
        for name in files:
            _permit(Path(folder) / name, READABLE)


def _permit(path: Path, mode: int) -> None:
    found = stat.S_IMODE(path.stat().st_mode)
    if found & mode != mode:
        path.chmod(found | mode)


def _refuse_foreign(root: Path) -> None:
    for what, folder in (("your home folder", Path.home()), ("the current folder", Path.cwd())):
        if root == folder.resolve() or root in folder.resolve().parents:
            raise UnsafeSite(f"site: {root} is or holds {what}; give a folder of its own")
    if (root / ".git").exists():
        raise UnsafeSite(f"site: {root} is the root of a repository; give a folder of its own")
    if root.exists() and not (root / MARKER).is_dir() and any(root.iterdir()):
        raise UnsafeSite(
            f"site: {root} holds files that are not a site of this farm; give an empty or a new folder"
        )
