"""The folder of a site: which folders are refused, and the lock for writing."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ci.errors import UnsafeSite
from ci.files import clear_scratch
from ci.lock import lock

if TYPE_CHECKING:
    from collections.abc import Iterator

MARKER = ".flash-attn3-site"
"""The folder inside every site that marks it as one; it holds the lock and the wheels being checked."""


@contextmanager
def held_site(site: Path) -> Iterator[Path]:
    """Lock the site's folder, made if need be, for writing, and yield it.

    Raises:
        UnsafeSite: the folder is or contains the home or the current folder, is the root of a repository, is
            not a folder, cannot be written, or holds files that are not a site's.
        DiskFull: there is no room even for an empty site.
    """
    root = site.resolve()
    try:
        _refuse_foreign(root)
        root.mkdir(parents=True, exist_ok=True)
        (root / MARKER).mkdir(exist_ok=True)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise UnsafeSite(f"site: {root} cannot be used as a folder: {error.strerror}") from error
    with lock(root / MARKER):
        clear_scratch(root)
        yield root


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
