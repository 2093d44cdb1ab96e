"""Checks the members of a wheel against its RECORD, the list of its files with their hashes and sizes."""

from __future__ import annotations

import base64
import csv
import io
import zipfile
import zlib
from pathlib import PurePosixPath

from ci.errors import CorruptWheel
from ci.files import blocks_of, sha256_of_blocks

UNREADABLE = (
    *(zipfile.BadZipFile, zlib.error, csv.Error, UnicodeDecodeError),
    *(EOFError, KeyError, NotImplementedError, OSError, RuntimeError),
)
"""The exceptions of zipfile and csv for damaged bytes; RuntimeError is raised for encrypted members."""


def check_record(archive: zipfile.ZipFile, name: str) -> str:
    """Check every member of a wheel and return the name of its ``.dist-info`` folder.

    Args:
        archive: the wheel; reading damaged bytes raises ``UNREADABLE``, which the caller handles.
        name: of the wheel, for error messages.

    Raises:
        CorruptWheel: a member is missing from RECORD or differs from it, RECORD lists a missing member, or a
            member would be written outside the environment.
    """
    info = _dist_info(archive, name)
    record = f"{info}/RECORD"
    listed = {line[0]: line[1:] for line in csv.reader(io.StringIO(archive.read(record).decode())) if line}
    members = [member for member in archive.namelist() if not member.endswith("/")]
    if len(set(members)) != len(members):
        raise CorruptWheel(f"{name}: two members have the same name")
    if missing := sorted(listed.keys() - set(members)):
        raise CorruptWheel(f"{name}: RECORD lists {missing[0]}, which is not in the wheel")
    for member in members:
        if PurePosixPath(member).is_absolute() or ".." in PurePosixPath(member).parts:
            raise CorruptWheel(f"{name}: {member} would be written outside the environment")
        if member == record:
            continue
        if len(listed.get(member, ())) != 2:
            raise CorruptWheel(f"{name}: {member} has no row with a hash and a size in RECORD")
        with archive.open(member) as file:
            digest = bytes.fromhex(sha256_of_blocks(blocks_of(file)))
        found = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        if listed[member] != [f"sha256={found}", str(archive.getinfo(member).file_size)]:
            raise CorruptWheel(f"{name}: {member} does not match its hash and size in RECORD")
    return info


def recorded_sha256(archive: zipfile.ZipFile, info: str, member: str) -> str | None:
    """Return the sha256 of a member, in hex, as the RECORD of a checked wheel has it; None without a row.

    Args:
        archive: the wheel.
        info: its ``.dist-info`` folder.
        member: the name of the file.
    """
    for row in csv.reader(io.StringIO(archive.read(f"{info}/RECORD").decode())):
        if row and row[0] == member:
            return base64.urlsafe_b64decode(row[1].removeprefix("sha256=") + "=").hex()
    return None


def _dist_info(archive: zipfile.ZipFile, name: str) -> str:
    folders = {
        part for part in (m.split("/", 1)[0] for m in archive.namelist()) if part.endswith(".dist-info")
    }
    if len(folders) != 1:
        raise CorruptWheel(f"{name}: holds {len(folders)} .dist-info folders; a wheel holds exactly one")
    return folders.pop()
