"""Installs a wheel into an empty folder, with pip or without.

Only the standard library is imported here: ``validate`` needs it where there is nothing else.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib.util
import io
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from ci.errors import CorruptWheel

_UNREADABLE = (zipfile.BadZipFile, zlib.error, csv.Error, EOFError, KeyError, NotImplementedError, OSError)


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file in hex.

    Raises:
        CorruptWheel: the file cannot be read.
    """
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise CorruptWheel(f"{path}: cannot be read: {error.strerror}") from error


def install_wheel(wheel: Path, site: Path) -> None:
    """Install a wheel, having checked each of its files against its RECORD.

    pip does it where there is one, as for a user; elsewhere the files are unpacked, which is all that a wheel
    without scripts or data folders asks for.

    Raises:
        CorruptWheel: the file is no whole wheel, a file differs from its RECORD, or pip refuses it.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            _check_record(archive, wheel.name)
            if importlib.util.find_spec("pip") is None:
                archive.extractall(site)
                return
    except _UNREADABLE as error:
        raise CorruptWheel(f"{wheel.name}: not a whole wheel: {error}") from error
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "install"]
    options = ["--quiet", "--no-deps", "--no-index", "--no-compile", "--target", str(site), str(wheel)]
    done = subprocess.run([*pip, *options], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["it said nothing"]
        raise CorruptWheel(f"{wheel.name}: pip cannot install it here: {lines[-1]}")


def _check_record(archive: zipfile.ZipFile, name: str) -> None:
    members = [member for member in archive.namelist() if not member.endswith("/")]
    records = [member for member in members if member.endswith(".dist-info/RECORD")]
    if len(records) != 1:
        raise CorruptWheel(f"{name}: holds {len(records)} RECORD files; a wheel holds one")
    rows = csv.reader(io.StringIO(archive.read(records[0]).decode()))
    listed = {row[0]: row[1] for row in rows if len(row) == 3}
    for member in members:
        path = PurePosixPath(member)
        if path.is_absolute() or ".." in path.parts:
            raise CorruptWheel(f"{name}: {member} would be written outside the folder")
        if member == records[0]:
            continue
        digest = base64.urlsafe_b64encode(hashlib.sha256(archive.read(member)).digest()).rstrip(b"=")
        if listed.get(member) != f"sha256={digest.decode()}":
            raise CorruptWheel(f"{name}: {member} does not match RECORD")
