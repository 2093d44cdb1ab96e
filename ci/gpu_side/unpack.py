"""Installs a wheel into an empty folder, with pip or without.

Only the standard library is imported here: ``validate`` needs it where there is nothing else.
"""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING

from ci.errors import CorruptWheel
from ci.gpu_side.record import UNREADABLE, check_record

if TYPE_CHECKING:
    from pathlib import Path


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
            check_record(archive, wheel.name)
            if importlib.util.find_spec("pip") is None:
                archive.extractall(site)
                return
    except UNREADABLE as error:
        raise CorruptWheel(f"{wheel.name}: not a whole wheel: {error}") from error
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "install"]
    options = ["--quiet", "--no-deps", "--no-index", "--no-compile", "--target", str(site), str(wheel)]
    done = subprocess.run([*pip, *options], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["it said nothing"]
        raise CorruptWheel(f"{wheel.name}: pip cannot install it here: {lines[-1]}")
