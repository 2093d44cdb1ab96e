"""Holds a wheel against its own RECORD, the list of its files with their hashes and sizes.

Only the standard library is imported here: ``validate`` needs it where there is nothing else.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import zipfile
import zlib
from pathlib import PurePosixPath
from typing import IO

from ci.errors import CorruptWheel

UNREADABLE = (
    *(zipfile.BadZipFile, zlib.error, csv.Error, UnicodeDecodeError),
    *(EOFError, KeyError, NotImplementedError, OSError, RuntimeError),
)
"""What zipfile and csv raise on bytes that are no wheel; RuntimeError stands for an encrypted member."""
_CHUNK = 1 << 20


def check_record(archive: zipfile.ZipFile, name: str) -> str:
    """Check every member of a wheel and return the name of its ``.dist-info`` folder.

    Args:
        archive: the wheel; what it raises on damaged bytes is left to the caller (``UNREADABLE``).
        name: what an error calls it.

    Raises:
        CorruptWheel: a member is missing from RECORD or differs from it, RECORD lists one that is not there,
            or one would be written outside the environment.
    """
    info = _dist_info(archive, name)
    record = f"{info}/RECORD"
    rows = {row[0]: row[1:] for row in csv.reader(io.StringIO(archive.read(record).decode())) if row}
    members = [member for member in archive.namelist() if not member.endswith("/")]
    if len(set(members)) != len(members):
        raise CorruptWheel(f"{name}: two members have the same name")
    if missing := sorted(rows.keys() - set(members)):
        raise CorruptWheel(f"{name}: RECORD lists {missing[0]}, which is not in the wheel")
    for member in members:
        if PurePosixPath(member).is_absolute() or ".." in PurePosixPath(member).parts:
            raise CorruptWheel(f"{name}: {member} would be written outside the environment")
        if member == record:
            continue
        if len(rows.get(member, ())) != 2:
            raise CorruptWheel(f"{name}: {member} has no row with a hash and a size in RECORD")
        with archive.open(member) as file:
            found = base64.urlsafe_b64encode(_digest(file)).rstrip(b"=").decode()
        if rows[member] != [f"sha256={found}", str(archive.getinfo(member).file_size)]:
            raise CorruptWheel(f"{name}: {member} does not match its hash and size in RECORD")
    return info


def _dist_info(archive: zipfile.ZipFile, name: str) -> str:
    folders = {
        part for part in (m.split("/", 1)[0] for m in archive.namelist()) if part.endswith(".dist-info")
    }
    if len(folders) != 1:
        raise CorruptWheel(f"{name}: holds {len(folders)} .dist-info folders; a wheel holds exactly one")
    return folders.pop()


def _digest(file: IO[bytes]) -> bytes:
    digest = hashlib.sha256()
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
    return digest.digest()
