"""The interface of a place where a site lives: a folder of this machine or a bucket.

Paths are relative to the root of the site, with forward slashes. Files are of two kinds: immutable ones
(wheels, their metadata, reports, snapshots), which are put once, and the manifest and the pages, which are
replaced on condition that nobody else has replaced them since they were read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ci.errors import StoreConflict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

MARKER = ".flash-attn3-site"
"""What marks a folder or a prefix as a site: a folder of that name, or an object in one."""


class ChangedMeanwhile(StoreConflict):
    """A file is not the version that was read: another publisher has replaced it."""

    def __init__(self, file: str) -> None:
        super().__init__(f"{file}: another publisher has replaced it meanwhile; run the same command again")


@dataclass(frozen=True)
class Stored:
    """The bytes of a stored file, and the store's name for this version of them."""

    data: bytes
    version: str


class Store(Protocol):
    """A place where a site lives. Every operation may raise ``StoreFailed``; none leaves half a file."""

    @property
    def name(self) -> str:
        """How messages name the site: its folder, or ``s3://bucket/prefix``."""

    @property
    def has_folders(self) -> bool:
        """Whether a host of this store answers the address of a folder with the index page in it.

        Where it does not, the page is stored a second time under the address of its folder.
        """

    def at(self, path: str) -> str:
        """Return how messages name a file."""

    def writing(self, *, create: bool, report: Callable[[str], None]) -> AbstractContextManager[Path]:
        """Start to write, excluding other writers where the store can.

        Args:
            create: whether to make a new site if there is none.
            report: called with one line if this writer has to wait for another.

        Yields:
            An empty local folder for files that :meth:`put` will take; it is removed in the end.

        Raises:
            UnsafeSite: there is no site and none is to be made, or the place holds something else, or cannot
                be written.
            DiskFull: there is no room, here or later.
        """

    def read(self, path: str) -> Stored | None:
        """Return a file; None if it does not exist."""

    def version(self, path: str) -> str | None:
        """Return the version of a file; None if it does not exist."""

    def compare(self, path: str, data: bytes) -> tuple[str | None, bool]:
        """Return the version of a file, None if it does not exist, and whether it holds these bytes."""

    def paths(self, prefix: str = "") -> Iterator[str]:
        """Yield the paths of all files of the site that begin with ``prefix``, in any order."""

    def local_copy(self, path: str) -> AbstractContextManager[Path]:
        """Yield a local file with the bytes of an existing file, not to be changed."""

    def put(self, path: str, content: Path | bytes) -> None:
        """Store an immutable file; do nothing if it is there already.

        Args:
            path: where.
            content: its bytes, or a local file, which the store may move away.

        Raises:
            StoreConflict: another publisher stores other bytes under this path.
        """

    def replace(self, path: str, data: bytes, version: str | None) -> str:
        """Replace a file, or create it, and return its new version.

        Args:
            path: the file.
            data: its new bytes.
            version: the version that it replaces; None for a file that does not exist.

        Raises:
            ChangedMeanwhile: the file has another version.
        """

    def delete(self, path: str) -> None:
        """Delete a file, if it exists."""

    def served(self, *, host: str = "127.0.0.1", port: int = 0) -> AbstractContextManager[str]:
        """Serve the site, if nobody else does, and yield its address, with a final slash.

        Args:
            host: the name or address of this machine to serve at.
            port: the port; 0: a free one.

        Raises:
            PortTaken: nothing can listen there.
        """
