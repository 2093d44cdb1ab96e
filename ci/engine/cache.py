"""The content-addressed cache: small groups of files stored under the digest of what made them."""

from __future__ import annotations

import hashlib
import json
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
    """A folder of objects, each a magic number, the SHA-256 of the rest, a line of JSON and the files' bytes.

    The line holds the object's key, so that an object moved to another key is as corrupt as a truncated one.
    """

    folder: Path

    def path(self, key: str) -> Path:
        """Return where the object of ``key`` lies, or would lie."""
        return self.folder / key[:2] / key[2:]

    def store(self, key: str, files: Mapping[str, bytes]) -> None:
        """Store ``files`` (name -> bytes) under ``key``.

        Raises:
            DiskFull: if there is no room.
        """
        header = {"key": key, "files": [[name, len(data)] for name, data in files.items()]}
        body = json.dumps(header).encode() + b"\n" + b"".join(files.values())
        write_atomically(self.path(key), _MAGIC + hashlib.sha256(body).digest() + body)

    def load(self, key: str) -> dict[str, bytes] | None:
        """Return the files stored under ``key``, or None if there are none.

        Raises:
            CorruptObject: if the object is not what was stored.
        """
        path = self.path(key)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        start = len(_MAGIC) + _DIGEST_SIZE
        digest, body = data[len(_MAGIC) : start], data[start:]
        if not data.startswith(_MAGIC) or hashlib.sha256(body).digest() != digest:
            raise CorruptObject(f"{path}: the cached object is truncated or altered")
        line, _, rest = body.partition(b"\n")
        header = json.loads(line)
        if header["key"] != key:
            raise CorruptObject(f"{path}: the cached object belongs to the key {header['key']}")
        files: dict[str, bytes] = {}
        for name, size in header["files"]:
            files[name], rest = rest[:size], rest[size:]
        return files

    def fetch(self, key: str, warn: Callable[[str], None]) -> dict[str, bytes] | None:
        """Load an object; delete a corrupt one with a warning, so that it is made again and never used."""
        try:
            return self.load(key)
        except CorruptObject as error:
            warn(f"{error}; it is deleted and made again")
            self.path(key).unlink(missing_ok=True)
            return None
