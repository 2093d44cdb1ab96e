"""The content-addressed cache: small groups of files, stored under the digest of their inputs."""

from __future__ import annotations

import hashlib
import json
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ci.errors import CorruptObject
from ci.files import write_atomically

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

_MAGIC = b"FARMOBJ\x01"
_DIGEST_SIZE = hashlib.sha256().digest_size


@dataclass(frozen=True)
class Cache:
    """A folder of objects: magic number, SHA-256 of the rest, one line of JSON, the bytes of the files.

    The JSON holds the key, so that an object under another key is found out like a truncated one.
    """

    folder: Path

    def path(self, key: str) -> Path:
        """Return the path of the object of ``key``, whether or not it exists."""
        return self.folder / key[:2] / key[2:]

    def store(self, key: str, files: Mapping[str, bytes]) -> None:
        """Store ``files`` (name -> bytes) under ``key``.

        Raises:
            DiskFull: there is no room.
        """
        header = {"key": key, "files": [[name, len(data)] for name, data in files.items()]}
        body = json.dumps(header).encode() + b"\n" + b"".join(files.values())
        write_atomically(self.path(key), _MAGIC + hashlib.sha256(body).digest() + body)

    def adopt(self, key: str, data: bytes, origin: str) -> None:
        """Store the bytes of an object of another cache.

        Raises:
            CorruptObject: they are damaged or of another key; the text begins with ``origin``.
            DiskFull: there is no room.
        """
        _files_of(data, key, origin)
        write_atomically(self.path(key), data)

    def load(self, key: str) -> dict[str, bytes] | None:
        """Return the files stored under ``key`` (name -> bytes), or None if there is no such object.

        Its access time becomes that of this use, by which `farm clean` tells old objects.

        Raises:
            CorruptObject: the object is truncated, altered, belongs to another key or is no file.
        """
        path = self.path(key)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except (IsADirectoryError, NotADirectoryError) as error:
            raise CorruptObject(
                f"{error.filename}: should be a file of the cache in a folder of it; remove what is there"
            ) from error
        files = _files_of(data, key, str(path))
        with suppress(OSError):  # the cache may be read-only, or another user's
            os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))
        return files

    def fetch(self, key: str, warn: Callable[[str], None]) -> dict[str, bytes] | None:
        """Load an object; delete a corrupt one with a warning and return None, so that it is made again.

        Raises:
            CorruptObject: a folder is in the place of a file, or a file in that of a folder.
        """
        try:
            return self.load(key)
        except CorruptObject as error:
            if not self.path(key).is_file():  # not the cache's, so not its to delete
                raise
            warn(f"{error}; it is deleted and made again")
            self.path(key).unlink(missing_ok=True)
            return None


def _files_of(data: bytes, key: str, origin: str) -> dict[str, bytes]:
    """Return the files in the bytes of an object, which must be whole and of this key."""
    start = len(_MAGIC) + _DIGEST_SIZE
    digest, body = data[len(_MAGIC) : start], data[start:]
    if not data.startswith(_MAGIC) or hashlib.sha256(body).digest() != digest:
        raise CorruptObject(f"{origin}: the cached object is truncated or altered")
    line, _, rest = body.partition(b"\n")
    header = json.loads(line)
    if header["key"] != key:
        raise CorruptObject(f"{origin}: the cached object belongs to the key {header['key']}")
    files: dict[str, bytes] = {}
    for name, size in header["files"]:
        files[name], rest = rest[:size], rest[size:]
    return files
