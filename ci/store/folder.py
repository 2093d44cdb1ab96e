"""A site in a folder: crash-safe writes, the lock for writing, and which folders are refused."""

from __future__ import annotations

import os
import shutil
import stat
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ci.errors import UnsafeSite
from ci.files import clear_scratch, room_in, sha256_of, write_atomically
from ci.lock import lock
from ci.store.serve import served
from ci.store.store import MARKER, ChangedMeanwhile, Stored

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from ci.store.store import Store

_READABLE = 0o644
"""Permissions of a served file."""


@dataclass(frozen=True)
class FolderStore:
    """A site in a folder, which any web server can serve. The folder inside it that marks it holds the lock.

    A version is the number of a file's inode and its time: each write makes a new file.
    """

    folder: Path

    @property
    def name(self) -> str:
        """See :class:`ci.store.store.Store`, here and below."""
        return str(self.folder)

    @property
    def has_folders(self) -> bool:
        """A web server answers the address of a folder with the index page in it."""
        return True

    def at(self, path: str) -> str:
        """Return the whole path of a file."""
        return str(self._path(path))

    @contextmanager
    def writing(self, *, create: bool, report: Callable[[str], None]) -> Iterator[Path]:
        """Lock the folder; in the end let every user read the site, as its web server must."""
        with held_site(self.folder, create=create, report=report) as root, room_in(root):
            staging = root / MARKER / "incoming"
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir()
            try:
                yield staging
            finally:
                shutil.rmtree(staging, ignore_errors=True)
            open_to_readers(root)

    def read(self, path: str) -> Stored | None:
        """Return a file; None if it does not exist."""
        version = self.version(path)
        return None if version is None else Stored(self._path(path).read_bytes(), version)

    def version(self, path: str) -> str | None:
        """Return the version of a file; None if it does not exist."""
        try:
            found = self._path(path).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return f"{found.st_ino}-{found.st_mtime_ns}"

    def compare(self, path: str, data: bytes) -> tuple[str | None, bool]:
        """Return the version of a file, and whether it holds these bytes."""
        found = self.read(path)
        return (None, False) if found is None else (found.version, found.data == data)

    def paths(self, prefix: str = "") -> Iterator[str]:
        """Yield the paths of all files but those beside the marker."""
        root = self._root
        for folder, folders, files in os.walk(root / prefix.rpartition("/")[0]):
            if MARKER in folders:
                folders.remove(MARKER)
            place = Path(folder).relative_to(root)
            found = ((place / name).as_posix() for name in files)
            yield from (path for path in found if path.startswith(prefix))

    @contextmanager
    def local_copy(self, path: str) -> Iterator[Path]:
        """Yield the file itself."""
        yield self._path(path)

    def put(self, path: str, content: Path | bytes) -> None:
        """Store an immutable file. A damaged one is put right: the lock excludes other publishers."""
        target = self._path(path)
        if isinstance(content, bytes):
            if not target.is_file() or target.read_bytes() != content:
                write_atomically(target, content, mode=_READABLE)
        elif not target.is_file() or sha256_of(target) != sha256_of(content):
            target.parent.mkdir(parents=True, exist_ok=True)
            with content.open("rb+") as file:
                os.fsync(file.fileno())
            content.chmod(_READABLE)
            content.replace(target)

    def replace(self, path: str, data: bytes, version: str | None) -> str:
        """Replace a file, or create it, and return its new version."""
        if self.version(path) != version:
            raise ChangedMeanwhile(self.at(path))
        write_atomically(self._path(path), data, mode=_READABLE)
        return str(self.version(path))

    def delete(self, path: str) -> None:
        """Delete a file, if it exists."""
        self._path(path).unlink(missing_ok=True)

    def served(self, *, host: str = "127.0.0.1", port: int = 0) -> AbstractContextManager[str]:
        """Serve the folder from this process."""
        return served(self.folder, host=host, port=port)

    @cached_property
    def _root(self) -> Path:
        return self.folder.resolve()

    def _path(self, path: str) -> Path:
        return self._root / path


def as_store(site: Store | Path) -> Store:
    """Return the store of a site that is given as such or by its folder."""
    return FolderStore(site) if isinstance(site, Path) else site


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
            _permit(Path(folder) / name, _READABLE)


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
