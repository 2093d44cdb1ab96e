"""Packages a payload as a wheel whose bytes depend on its contents alone."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from ci.errors import BuildFailed, DiskFull
from ci.files import room_in, scratch_folder, write_atomically
from ci.output import last_line, reports_full_disk
from ci.project import ROOT
from kernels.build.archive import normalised

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def make_wheel(*, payload: Path, dist: Path) -> Path:
    """Package ``flash_attn3`` with ``payload`` (:mod:`kernels.build.payload`); return the wheel in ``dist``.

    Raises:
        BuildFailed, DiskFull: as :func:`package` does.
    """
    prebuilt = {"FLASH_ATTN3_PREBUILT": str(payload)}
    return package(ROOT, work=payload.parent, dist=dist, environment=prebuilt)


def package(source: Path, *, work: Path, dist: Path, environment: Mapping[str, str]) -> Path:
    """Run the build backend of a project and put the normalised wheel into ``dist``.

    Args:
        source: the folder of the project's pyproject.toml.
        work: the folder for a scratch folder of the backend's output.
        dist: the folder of the wheel.
        environment: variables of the build besides those of this process.

    Raises:
        BuildFailed: the build backend failed.
        DiskFull: there is no room; an older wheel of the same name is untouched.
    """
    with room_in(work), scratch_folder(work) as scratch:
        command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(scratch)]
        # The backend would refuse a bad value of this variable; no byte depends on it.
        inherited = {name: value for name, value in os.environ.items() if name != "SOURCE_DATE_EPOCH"}
        result = subprocess.run(
            command,
            check=False,
            cwd=source,
            env={**inherited, **environment},
            capture_output=True,
            text=True,
        )
        if result.returncode != 0:
            text = (result.stderr or result.stdout).strip()
            if reports_full_disk(text):
                raise DiskFull(f"{work}: no room left for the wheel")
            raise BuildFailed(f"the build backend made no wheel: {last_line(text, 'no output')}")
        (built,) = scratch.glob("*.whl")
        wheel = dist / built.name
        write_atomically(wheel, normalised(built.read_bytes()))
    return wheel
