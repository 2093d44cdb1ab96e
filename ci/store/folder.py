"""The folder a site lives in: which folders are refused, and how one is held while it is written."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ci.errors import UnsafeSite
from ci.files import clear_scratch, lock

if TYPE_CHECKING:
    from collections.abc import Iterator

MARKER = ".flash-attn3-site"
"""A folder inside every site: it makes the site ours, and holds its lock and the wheels being checked."""


@contextmanager
def held_site(site: Path) -> Iterator[Path]:
    """Yield the site's folder, made if need be, while no other process writes to it.

    Raises:
        UnsafeSite: the folder is the root, the home or the current folder or holds one of these, is the root
            of a repository, is no folder, cannot be written, or holds files of somebody else.
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
