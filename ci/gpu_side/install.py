"""Installs a wheel into an empty folder, with pip or without."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING

from ci.errors import CorruptWheel
from ci.files import sha256_of
from ci.gpu_side.wheel_record import UNREADABLE, check_record
from ci.output import last_line

if TYPE_CHECKING:
    from pathlib import Path


def wheel_sha256(wheel: Path) -> str:
    """Return the SHA-256 of a wheel, in hex.

    Raises:
        CorruptWheel: the file cannot be read.
    """
    try:
        return sha256_of(wheel)
    except OSError as error:
        raise CorruptWheel(f"{wheel}: cannot be read: {error.strerror}") from error


def install_wheel(wheel: Path, site: Path) -> None:
    """Check every file of a wheel against its RECORD and install it.

    pip installs it, as for a user. Without pip the files are unpacked, which is sufficient for a wheel
    without scripts and data folders.

    Args:
        wheel: the wheel.
        site: the folder to install into; created by a successful installation.

    Raises:
        CorruptWheel: the file is not a complete wheel, a file differs from RECORD, or pip refuses it.
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
        reason = last_line(done.stderr, "it wrote no message")
        raise CorruptWheel(f"{wheel.name}: pip cannot install it here: {reason}")
