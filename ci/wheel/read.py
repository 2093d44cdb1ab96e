"""Reads the name, tags, metadata and build.json of a wheel, and checks the wheel against its RECORD."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from email.errors import MessageError
from typing import TYPE_CHECKING, Any

from packaging.metadata import ExceptionGroup, InvalidMetadata, Metadata
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from pydantic_core import from_json

from ci.errors import CorruptWheel
from ci.files import sha256_of
from ci.gpu_side.wheel_record import UNREADABLE, check_record, recorded_sha256
from kernels.build.payload import PACK_NAME

if TYPE_CHECKING:
    from pathlib import Path

_PACK = f"flash_attn3/lib/{PACK_NAME}"


@dataclass(frozen=True)
class WheelFile:
    """The fields of one wheel that an index lists.

    ``metadata`` is METADATA byte for byte: installers compare the sidecar with the wheel.
    ``build`` is the wheel's ``build.json``, or None for a wheel without kernels.
    ``pack_sha256`` is of the file that holds the kernels, or None for a wheel without one.
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
    pack_sha256: str | None


def read_wheel(path: Path, *, filename: str | None = None) -> WheelFile:
    """Read a wheel after checking every member against its RECORD.

    Args:
        path: the wheel.
        filename: the wheel's own name, where ``path`` is a copy under another one.

    Raises:
        CorruptWheel: the name is not a wheel's, the file is not a complete zip, a member is missing from
            RECORD or differs from it, or METADATA and the name have different projects or versions.
    """
    name = filename or path.name
    try:
        project, version, _, tags = parse_wheel_filename(name)
    except InvalidWheelFilename as error:
        raise CorruptWheel(f"{name}: not the name of a wheel: {error}") from error
    try:
        with zipfile.ZipFile(path) as archive:
            info = check_record(archive, name)
            raw_metadata = archive.read(f"{info}/METADATA")
            build = _read_build(archive, name)
            pack_sha256 = recorded_sha256(archive, info, _PACK)
    except UNREADABLE as error:
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
        pack_sha256=pack_sha256,
    )


def _read_build(archive: zipfile.ZipFile, name: str) -> dict[str, Any] | None:
    members = [m for m in archive.namelist() if m.count("/") == 1 and m.endswith("/build.json")]
    if not members:
        return None
    try:
        build = from_json(archive.read(members[0]))
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
