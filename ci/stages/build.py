"""The build stage: toolkit, kernels and host libraries, pack, wheel."""

from __future__ import annotations

import hashlib
import json
import sys
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from ci.engine.cache import Cache
from ci.engine.job import total_cost
from ci.engine.local import Job, available_memory, parallel_jobs, run_jobs
from ci.engine.toolkits import fetch_toolkit
from ci.files import clear_scratch, lock, room_in, write_atomically
from ci.project import project_version
from ci.wheel.make import make_wheel
from kernels.build.compile import inputs_digest
from kernels.build.host_inputs import host_digest
from kernels.build.pack import PackEntry
from kernels.build.payload import write_payload
from kernels.build.toolkit import Toolkit, find_toolkit
from kernels.table import VARIANTS, Variant

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from ci.progress import Reporter
    from matrix.cell import Artefact
    from matrix.model import Matrix, Platform

    _Files = Mapping[str, Mapping[str, bytes]]

CPU_BAR = 15 * 60
"""Processor seconds within which the whole table compiles."""
MEMORY_BAR = 1_000_000_000
"""Bytes within which each compile stays."""
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


def build(
    *,
    artefact: Artefact,
    matrix: Matrix,
    workshop: Workshop,
    progress: Reporter,
    variants: Sequence[Variant] = VARIANTS,
) -> Path:
    """Build the wheel of an artefact and return it.

    Every finished compile is kept as it ends, so a killed build resumes; the wheel appears whole or not.
    The wheel of the whole table, compiled with the released toolkit, goes to ``dist/`` of the work folder.
    Every other one has the same name and is for trying: it stays in the artefact's folder.

    Raises:
        FarmError, KernelsError: as the stages do; what was good before is still good.
    """
    work, version = workshop.work.resolve(), project_version()
    platform = next(row for row in matrix.platform if row.name == artefact.platform)
    whole = len(variants) == len(VARIANTS)
    folder = work / "build" / (str(artefact) if whole else f"{artefact}-{_selection(variants)}")
    with _held(work, progress):
        toolkit, site = _toolkit(artefact.toolkit, matrix, workshop, progress)
        kernel_jobs = [_kernel_job(variant, toolkit, site) for variant in variants]
        host_job = _host_job(platform, version)
        files = run_jobs(
            [host_job, *kernel_jobs],  # the host libraries take longest, so they start first
            cache=Cache(work / "cache" / "objects"),
            folder=folder / "jobs",
            parallel=parallel_jobs(available_memory(), workshop.processors),
            progress=progress,
        )
        entries = [
            PackEntry(variant, files[variant.name]["kernel.image"], artefact.toolkit) for variant in variants
        ]
        with room_in(folder):
            write_payload(
                folder / "payload",
                entries=entries,
                libraries=files[_HOST],
                version=version,
                platform=str(platform.tag),
            )
        released = whole and artefact.toolkit == matrix.release.toolkit
        wheel = make_wheel(payload=folder / "payload", dist=work / "dist" if released else folder / "dist")
        _write_resources(folder, files, variants)
        _report_cost(folder, files, wheel, progress)
    progress.say(f"built {wheel} ({len(entries)} kernels, {wheel.stat().st_size / 1e6:.1f} MB)")
    return wheel


def compile_rows(
    *, variants: Sequence[Variant], artefact: Artefact, matrix: Matrix, workshop: Workshop, progress: Reporter
) -> tuple[PackEntry, ...]:
    """Compile rows, of the table or not, into the cache; those that are refused are left out with a warning.

    Raises:
        FarmError, KernelsError: as :func:`build` does, but for a row that the compiler or a gate refuses.
    """
    work = workshop.work.resolve()
    with _held(work, progress):
        toolkit, site = _toolkit(artefact.toolkit, matrix, workshop, progress)
        files = run_jobs(
            [_kernel_job(variant, toolkit, site) for variant in variants],
            cache=Cache(work / "cache" / "objects"),
            folder=work / "build" / f"{artefact}-rows" / "jobs",
            parallel=parallel_jobs(available_memory(), workshop.processors),
            progress=progress,
            may_fail=True,
        )
    return tuple(
        PackEntry(variant, files[variant.name]["kernel.image"], artefact.toolkit)
        for variant in variants
        if variant.name in files
    )


def _selection(variants: Sequence[Variant]) -> str:
    """Name a selection of rows, so that two of them do not overwrite each other's wheel."""
    return hashlib.sha256("\n".join(sorted(row.name for row in variants)).encode()).hexdigest()[:8]


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
        *(sys.executable, "-m", "kernels.build.compile"),
        *("--variant", variant.name, "--toolkit", str(site)),
        *("--image", "{out}/kernel.image", "--report", "{out}/report.json"),
    )
    return Job(variant.name, inputs_digest(variant, toolkit), command)


def _host_job(platform: Platform, version: str) -> Job:
    target = str(platform.target)
    command = (
        *(sys.executable, "-m", "kernels.build.host"),
        *("--target", target, "--out", "{out}", "--version", version),
    )
    return Job(_HOST, host_digest(target, version), command)


def _write_resources(folder: Path, files: _Files, variants: Sequence[Variant]) -> None:
    """Gather the compiler's resource reports into one file, for people and for comparisons."""
    reports = {variant.name: json.loads(files[variant.name]["report.json"]) for variant in variants}
    write_atomically(folder / "resources.json", (json.dumps(reports, indent=1) + "\n").encode())


def _report_cost(folder: Path, files: _Files, wheel: Path, progress: Reporter) -> None:
    """Say and keep what the compiles took, those that came from the cache included."""
    cost = total_cost(files.items())
    document = {**asdict(cost), "jobs": len(files), "wheel_bytes": wheel.stat().st_size}
    write_atomically(folder / "cost.json", (json.dumps(document, indent=1) + "\n").encode())
    progress.say(
        f"{len(files)} compiles: {cost.cpu_seconds:.0f} s of processor time (the bar is {CPU_BAR} s); "
        f"the largest, {cost.largest}, {cost.memory_bytes / 1e9:.2f} GB ({MEMORY_BAR / 1e9:.0f} GB)"
    )
    if cost.cpu_seconds > CPU_BAR or cost.memory_bytes > MEMORY_BAR:
        progress.warn("the compiles took more than the bar allows")
