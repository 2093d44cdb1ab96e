"""A node's half of the distributed engine: gets the toolkit, runs a job's program, returns its object."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ci.engine.cache import Cache
from ci.engine.outcome import job_environment
from ci.errors import CorruptObject, FarmError, InvalidVariable
from ci.files import folder_atomically, scratch_folder
from ci.lock import lock
from kernels.build.toolkit import find_toolkit

if TYPE_CHECKING:
    from collections.abc import Callable

    from ci.engine.engine import Job

WORK = "FARM_WORK"
"""The variable that names the work folder of a node."""


@dataclass(frozen=True)
class ToolkitCopy:
    """What a compile reads of a toolkit, for machines that lack it."""

    folder: str
    """Its name in the folder of toolkits, which follows from its bytes."""
    digest: str
    """Of :class:`kernels.build.toolkit.Toolkit`."""
    fetch: Callable[[], bytes]
    """Returns a zip archive; called on a node that lacks the toolkit."""


@dataclass(frozen=True)
class Result:
    """How a job ended on a node."""

    status: int
    output: str
    data: bytes
    """The object of the job, as the caches store it; empty if it failed."""


def pack_toolkit(site: Path) -> bytes:
    """Return a zip archive of what a compile reads of a toolkit: compiler, headers, names of its wheels."""
    toolkit = find_toolkit(site)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for file in (toolkit.nvrtc, toolkit.builtins):
            archive.write(file, file.relative_to(site))
        for folder in (*toolkit.include_dirs, *(site / wheel for wheel in toolkit.wheels)):
            for file in sorted(path for path in folder.rglob("*") if path.is_file()):
                if (name := file.relative_to(site).as_posix()) not in archive.NameToInfo:
                    archive.write(file, name)
    return buffer.getvalue()


def run_on_node(job: Job, toolkit: ToolkitCopy | None) -> Result:
    """Run a job on this node, unless its cache has the object; an error becomes the result."""
    try:
        work = _work_folder()
        cache = Cache(work / "cache" / "objects")
        site = None if toolkit is None else _toolkit_folder(toolkit, work / "cache" / "toolkits")
        if cache.fetch(job.key, _ignore) is None:
            with scratch_folder(work / "build") as out:
                command = job.runner(cache=cache.folder, out=out, python=sys.executable, toolkit=site)
                done = subprocess.run(
                    command,
                    check=False,
                    env=job_environment(cache),
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            if done.returncode != 0:
                return Result(done.returncode, done.stdout, b"")
        return Result(0, "", cache.path(job.key).read_bytes())
    except FarmError as error:
        return Result(error.exit_code, f"farm: error: {job.name}: {error}\n", b"")


def _work_folder() -> Path:
    if not os.environ.get(WORK):
        raise InvalidVariable(f"{WORK}: should name the node's work folder, is not set; `farm node` sets it")
    return Path(os.environ[WORK])


def _toolkit_folder(toolkit: ToolkitCopy, toolkits: Path) -> Path:
    site = toolkits / toolkit.folder
    with lock(toolkits):
        if not site.is_dir():  # folder_atomically made it, so it is complete
            with folder_atomically(site) as scratch:
                with zipfile.ZipFile(io.BytesIO(toolkit.fetch())) as archive:
                    archive.extractall(scratch)
                if (found := find_toolkit(scratch).digest) != toolkit.digest:
                    raise CorruptObject(f"{site}: should have the digest {toolkit.digest}, has {found}")
    return site


def _ignore(_: str) -> None:
    """Drop the warning about a damaged object of this node: it is made again."""
