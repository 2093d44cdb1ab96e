"""Fetches a pinned toolkit: wheels with checked digests, unpacked side by side into one folder."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING

from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from ci.errors import DiskFull, ToolkitUnavailable, UnknownToolkit
from ci.files import clear_scratch, folder_atomically, room_in, sha256_of
from ci.names import nearest
from ci.output import last_line, reports_full_disk

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ci.progress import Reporter
    from matrix.model import Matrix, PinnedWheel, Toolkit


_BOX = "\N{MULTIPLICATION SIGN}\N{BOX DRAWINGS LIGHT ARC UP AND RIGHT}\N{BOX DRAWINGS LIGHT HORIZONTAL}> "
"""What pip draws before the lines of some errors."""


def named_toolkit(matrix: Matrix, name: str) -> Toolkit:
    """Return the toolkit called ``name``.

    Raises:
        UnknownToolkit: the matrix does not list it.
    """
    for toolkit in matrix.toolkit:
        if toolkit.name == name:
            return toolkit
    raise UnknownToolkit(
        f"no toolkit is called {name!r}; {nearest(name, [tk.name for tk in matrix.toolkit])}"
    )


def toolkit_folder(toolkit: Toolkit, cache: Path) -> Path:
    """Return the folder of a toolkit in a cache, whose name follows from its pins."""
    pins = "\n".join(wheel.requirement for wheel in toolkit.wheels)
    return cache / "toolkits" / f"{toolkit.name}-{hashlib.sha256(pins.encode()).hexdigest()[:12]}"


def fetch_toolkit(
    *, matrix: Matrix, name: str, cache: Path, wheelhouse: Path | None, progress: Reporter
) -> Path:
    """Return the folder of the unpacked toolkit ``name``, fetching it if it is missing.

    Args:
        matrix: lists the toolkit.
        name: such as ``12.8``.
        cache: the folder that holds ``toolkits/``.
        wheelhouse: a folder of wheels; pip downloads those it lacks. None: all of them.
        progress: receives a line when pip has to download.

    Raises:
        UnknownToolkit: the matrix does not list it.
        ToolkitUnavailable: a wheel cannot be downloaded, or its sha256 is not the pinned one.
        DiskFull: there is no room for it.
    """
    toolkit = named_toolkit(matrix, name)
    wheels, site = toolkit.wheels, toolkit_folder(toolkit, cache)
    if site.is_dir():  # folder_atomically made it, so it is complete
        return site
    local = [_in_wheelhouse(wheel, wheelhouse) for wheel in wheels]
    missing = [wheel for wheel, path in zip(wheels, local, strict=True) if path is None]
    if missing:
        progress.say(f"toolkit {name}: downloading {_listed(missing)}")
    clear_scratch(site.parent)
    with folder_atomically(site) as scratch:
        files = [path for path in local if path is not None]
        downloads = scratch / "downloads"
        downloads.mkdir()
        files += _download(name, missing, downloads) if missing else []
        for file in files:
            _unpack(file, scratch)
        shutil.rmtree(downloads)
    return site


def _in_wheelhouse(wheel: PinnedWheel, wheelhouse: Path | None) -> Path | None:
    if wheelhouse is None:
        return None
    for path in sorted(wheelhouse.glob("*.whl")):
        try:
            name, version, _, _ = parse_wheel_filename(path.name)
        except InvalidWheelFilename:
            continue
        if name == canonicalize_name(wheel.name) and str(version) == wheel.version:
            found = sha256_of(path)
            if found != wheel.sha256:
                raise ToolkitUnavailable(f"{path}: should have the pinned sha256 {wheel.sha256}, has {found}")
            return path
    return None


def _download(toolkit: str, wheels: Sequence[PinnedWheel], folder: Path) -> list[Path]:
    requirements = folder / "requirements.txt"
    requirements.write_text("\n".join(wheel.requirement for wheel in wheels) + "\n", encoding="utf-8")
    options = ["--quiet", "--require-hashes", "--no-deps", "--only-binary=:all:"]
    command = [sys.executable, "-m", "pip", "download", *options, "-r", str(requirements), "-d", str(folder)]
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    if result.returncode != 0:
        if reports_full_disk(result.stderr):
            raise DiskFull(f"{folder.parents[1]}: no room left for the wheels of toolkit {toolkit}")
        raise ToolkitUnavailable(
            f"toolkit {toolkit}: pip could not download {_listed(wheels)}: {_reason(result.stderr)}"
        )
    return sorted(folder.glob("*.whl"))


def _listed(wheels: Sequence[PinnedWheel]) -> str:
    return ", ".join(f"{wheel.name} {wheel.version}" for wheel in wheels)


def _reason(messages: str) -> str:
    """Return the line of pip's messages that says why it failed."""
    lines = [line.strip() for line in messages.splitlines()]
    boxed = [line.lstrip(_BOX) for line in lines if line.startswith(tuple(_BOX.strip()))]
    if boxed:
        return "; ".join(boxed)
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    if errors and errors[-1] != "Exception:":
        return errors[-1]
    return last_line(messages, "it said nothing")  # the end of a traceback


def _unpack(wheel: Path, site: Path) -> None:
    with room_in(site.parent), zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
        for entry in archive.infolist():
            mode = entry.external_attr >> 16
            if mode & 0o111 and not entry.is_dir():  # extractall drops the executable bit
                (site / entry.filename).chmod(0o755)
