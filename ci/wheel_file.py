"""What a wheel file says about itself, read from the file alone and checked against its own RECORD."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import zipfile
import zlib
from dataclasses import dataclass
from email.errors import MessageError
from pathlib import PurePosixPath
from typing import IO, TYPE_CHECKING, Any

from packaging.metadata import ExceptionGroup, InvalidMetadata, Metadata
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from ci.errors import CorruptWheel
from ci.files import sha256_of

if TYPE_CHECKING:
    from pathlib import Path

_CHUNK = 1 << 20
# What zipfile and csv raise on bytes that are no wheel; RuntimeError stands for an encrypted member.
_UNREADABLE = (
    *(zipfile.BadZipFile, zlib.error, csv.Error, UnicodeDecodeError),
    *(EOFError, KeyError, NotImplementedError, OSError, RuntimeError),
)


@dataclass(frozen=True)
class WheelFile:
    """The facts an index needs of one wheel.

    ``metadata`` is METADATA byte for byte, since installers compare the sidecar with the wheel;
    ``build`` is the wheel's ``build.json``, or None for a wheel that carries no kernels.
    """

    filename: str
    sha256: str
    size: int
    project: str
    version: str
    tags: tuple[str, ...]
    metadata: bytes
    requires_python: str
    requires_dist: tuple[str, ...]
    build: dict[str, Any] | None


def read_wheel(path: Path, *, filename: str | None = None) -> WheelFile:
    """Read a wheel, having checked every byte of it against its RECORD.

    Args:
        path: the wheel.
        filename: the name to judge it by, where ``path`` is a copy under another name.

    Raises:
        CorruptWheel: the name is no wheel name, the file is no whole zip, a member is missing from RECORD or
            differs from it, or METADATA speaks of another project or version than the name.
    """
    name = filename or path.name
    try:
        project, version, _, tags = parse_wheel_filename(name)
    except InvalidWheelFilename as error:
        raise CorruptWheel(f"{name}: not the name of a wheel: {error}") from error
    try:
        with zipfile.ZipFile(path) as archive:
            info = _dist_info(archive, name)
            _check_record(archive, f"{info}/RECORD", name)
            raw_metadata = archive.read(f"{info}/METADATA")
            build = _read_build(archive, name)
    except _UNREADABLE as error:
        raise CorruptWheel(f"{name}: not a whole wheel: {error}") from error
    metadata = _parse_metadata(raw_metadata, name)
    if canonicalize_name(metadata.name) != project or metadata.version != version:
        raise CorruptWheel(
            f"{name}: its METADATA is of {metadata.name} {metadata.version}; name and METADATA must agree"
        )
    return WheelFile(
        filename=name,
        sha256=sha256_of(path),
        size=path.stat().st_size,
        project=project,
        version=str(version),
        tags=tuple(sorted(map(str, tags))),
        metadata=raw_metadata,
        requires_python=str(metadata.requires_python or ""),
        requires_dist=tuple(map(str, metadata.requires_dist or ())),
        build=build,
    )


def _digest(file: IO[bytes]) -> hashlib._Hash:
    digest = hashlib.sha256()
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
    return digest


def _dist_info(archive: zipfile.ZipFile, name: str) -> str:
    folders = {
        part for part in (m.split("/", 1)[0] for m in archive.namelist()) if part.endswith(".dist-info")
    }
    if len(folders) != 1:
        raise CorruptWheel(f"{name}: holds {len(folders)} .dist-info folders; a wheel holds exactly one")
    return folders.pop()


def _check_record(archive: zipfile.ZipFile, record: str, name: str) -> None:
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
            found = base64.urlsafe_b64encode(_digest(file).digest()).rstrip(b"=").decode()
        if rows[member] != [f"sha256={found}", str(archive.getinfo(member).file_size)]:
            raise CorruptWheel(f"{name}: {member} does not match its hash and size in RECORD")


def _read_build(archive: zipfile.ZipFile, name: str) -> dict[str, Any] | None:
    members = [m for m in archive.namelist() if m.count("/") == 1 and m.endswith("/build.json")]
    if not members:
        return None
    try:
        build = json.loads(archive.read(members[0]))
    except ValueError as error:
        raise CorruptWheel(f"{name}: {members[0]} is not JSON: {error}") from error
    if not isinstance(build, dict):
        raise CorruptWheel(f"{name}: {members[0]} must be a JSON object, is a {type(build).__name__}")
    return build


def _parse_metadata(raw: bytes, name: str) -> Metadata:
    try:
        return Metadata.from_email(raw)
    except (ExceptionGroup, InvalidMetadata, MessageError, ValueError) as error:
        raise CorruptWheel(f"{name}: METADATA cannot be read: {error}") from error
