"""The build stage: toolkit, kernels and host libraries, pack, wheel."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ci.cache import Cache
from ci.compile import Job, available_memory, parallel_jobs, run_jobs
from ci.files import clear_scratch, lock, room_in, write_atomically
from ci.payload import combined_digest, host_digest, write_payload
from ci.project import project_version
from ci.toolkits import fetch_toolkit
from ci.wheel import make_wheel
from kernels.compile import inputs_digest
from kernels.pack import PackEntry
from kernels.toolkit import Toolkit, find_toolkit
from kernels.variants import VARIANTS, Variant

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from ci.progress import Reporter
    from matrix.cell import Artefact
    from matrix.model import Matrix, Platform

_HOST = "host libraries"


@dataclass(frozen=True)
class Workshop:
    """Where and with what a build works."""

    work: Path
    """The work folder: ``cache/``, ``build/<artefact>/`` and ``dist/`` lie in it."""
    wheelhouse: Path | None = None
    """A folder of toolkit wheels to take from before asking pip."""
    processors: int = 1
    """How many compiles may run at once, memory permitting."""

    @property
    def cache(self) -> Path:
        """The folder of everything that can be made again."""
        return self.work / "cache"


def build(*, artefact: Artefact, matrix: Matrix, workshop: Workshop, progress: Reporter) -> Path:
    """Build the wheel of an artefact and return it.

    Every finished compile is kept as it ends, so a killed build resumes; the wheel appears whole or not.

    Raises:
        FarmError, KernelsError: as the stages do; what was good before is still good.
    """
    work, version = workshop.work.resolve(), project_version()
    platform = next(row for row in matrix.platform if row.name == artefact.platform)
    folder = work / "build" / str(artefact)
    with _held(work, progress):
        toolkit, site = _toolkit(artefact.toolkit, matrix, workshop, progress)
        kernel_jobs = [_kernel_job(variant, toolkit, site) for variant in VARIANTS]
        host_job = _host_job(platform, version)
        files = run_jobs(
            [host_job, *kernel_jobs],  # the host libraries take longest, so they start first
            cache=Cache(work / "cache" / "objects"),
            folder=folder / "jobs",
            parallel=parallel_jobs(available_memory(), workshop.processors),
            progress=progress,
        )
        entries = [
            PackEntry(variant, files[variant.name]["kernel.cubin"], artefact.toolkit) for variant in VARIANTS
        ]
        _write_resources(folder, files, VARIANTS)
        with room_in(folder):
            write_payload(
                folder / "payload",
                entries=entries,
                libraries=files[_HOST],
                version=version,
                platform=str(platform.tag),
                source_digest=combined_digest({job.name: job.key for job in (host_job, *kernel_jobs)}),
            )
        released = artefact.toolkit == matrix.release.toolkit
        # Wheels of one platform share a name; those of another toolkit are for comparison and lie apart.
        wheel = make_wheel(payload=folder / "payload", dist=work / "dist" if released else folder / "dist")
    progress.say(f"built {wheel} ({len(entries)} kernels, {wheel.stat().st_size / 1e6:.1f} MB)")
    return wheel


def compile_only(
    *, variants: Sequence[Variant], artefact: Artefact, matrix: Matrix, workshop: Workshop, progress: Reporter
) -> Path:
    """Compile some kernels into the cache and return the file with their resource reports.

    Raises:
        FarmError, KernelsError: as :func:`build` does.
    """
    work = workshop.work.resolve()
    folder = work / "build" / str(artefact)
    with _held(work, progress):
        toolkit, site = _toolkit(artefact.toolkit, matrix, workshop, progress)
        files = run_jobs(
            [_kernel_job(variant, toolkit, site) for variant in variants],
            cache=Cache(work / "cache" / "objects"),
            folder=folder / "jobs",
            parallel=parallel_jobs(available_memory(), workshop.processors),
            progress=progress,
        )
        return _write_resources(folder, files, variants)


@contextmanager
def _held(work: Path, progress: Reporter) -> Iterator[None]:
    """Hold the work folder for this build alone, and clear what a killed one left."""
    with lock(work / "cache", tell=progress.say):
        for name in ("cache/objects", "build", "dist"):
            clear_scratch(work / name)
        yield


def _toolkit(name: str, matrix: Matrix, workshop: Workshop, progress: Reporter) -> tuple[Toolkit, Path]:
    cache = workshop.cache.resolve()
    site = fetch_toolkit(
        matrix=matrix, name=name, cache=cache, wheelhouse=workshop.wheelhouse, progress=progress
    )
    toolkit = find_toolkit(site)
    progress.say(f"toolkit {name}: {site}")
    return toolkit, site


def _kernel_job(variant: Variant, toolkit: Toolkit, site: Path) -> Job:
    command = (
        *(sys.executable, "-m", "kernels.compile"),
        *("--variant", variant.name, "--toolkit", str(site)),
        *("--cubin", "{out}/kernel.cubin", "--report", "{out}/report.json"),
    )
    return Job(variant.name, inputs_digest(variant, toolkit), command)


def _host_job(platform: Platform, version: str) -> Job:
    target = str(platform.target)
    command = (
        *(sys.executable, "-m", "kernels.host.build"),
        *("--target", target, "--out", "{out}", "--version", version),
    )
    return Job(_HOST, host_digest(target, version), command)


def _write_resources(folder: Path, files: dict[str, dict[str, bytes]], variants: Sequence[Variant]) -> Path:
    """Gather the compiler's resource reports into one file, for people and for comparisons."""
    reports = {variant.name: json.loads(files[variant.name]["report.json"]) for variant in variants}
    path = folder / "resources.json"
    write_atomically(path, (json.dumps(reports, indent=1) + "\n").encode())
    return path
