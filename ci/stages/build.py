"""The build stage: compiles kernels and host libraries, packs the kernels, makes the wheel."""

from __future__ import annotations

import hashlib
import json
import zipfile
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from ci.engine.cache import Cache
from ci.engine.cost import total_cost
from ci.engine.engine import Engine, Job, run_jobs
from ci.engine.local import LocalEngine
from ci.engine.process import Limits
from ci.engine.toolkits import fetch_toolkit
from ci.files import clear_scratch, room_in, write_atomically
from ci.lock import lock
from ci.project import ROOT
from ci.wheel.make import make_wheel
from kernels.build.compile import inputs_digest
from kernels.build.host_inputs import host_digest
from kernels.build.pack import PackEntry
from kernels.build.payload import write_payload
from kernels.build.toolkit import Toolkit, find_toolkit
from kernels.build.version import RELEASE, is_trial, version_of
from kernels.table import VARIANTS, Variant

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from ci.progress import Reporter
    from matrix.cell import Artefact
    from matrix.model import Matrix, Platform

    _Files = Mapping[str, Mapping[str, bytes]]

CPU_BAR = 15 * 60
"""Processor seconds that the compiles of the whole table may take."""
MEMORY_BAR = 1_000_000_000
"""Bytes of memory that one compile may take."""
_HOST = "host libraries"


@dataclass(frozen=True)
class Workshop:
    """The folders and the engine of a build."""

    work: Path
    """The work folder, which holds ``cache/``, ``build/<artefact>/`` and ``dist/``."""
    wheelhouse: Path | None = None
    """A folder of toolkit wheels; pip downloads those it lacks."""
    engine: Engine = field(default_factory=LocalEngine)
    """Runs the compiles."""

    @property
    def cache(self) -> Path:
        """The folder of toolkits and compiled objects; deleting it costs nothing but time."""
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

    Every compile is cached as soon as it ends, so that a killed build resumes; the wheel is written in one
    step. The wheel of the whole table and the released toolkit goes to ``dist/`` of the work folder. Every
    other wheel is a trial, as its version says: it stays in the artefact's folder.

    Args:
        artefact: the platform and the toolkit.
        matrix: lists both.
        workshop: where to build, and with which engine.
        progress: receives the compiles as steps, and the result.
        variants: the kernels of the wheel.

    Raises:
        FarmError, KernelsError: a compile, a gate or the packaging failed; earlier results are untouched.
    """
    work = workshop.work.resolve()
    version = version_of(variants, None if artefact.toolkit == matrix.release.toolkit else artefact.toolkit)
    platform = next(known for known in matrix.platform if known.name == artefact.platform)
    whole = len(variants) == len(VARIANTS)
    folder = work / "build" / (str(artefact) if whole else f"{artefact}-{_selection(variants)}")
    with _locked(work, progress):
        toolkit, site = _toolkit(artefact.toolkit, matrix, workshop, progress)
        kernel_jobs = _kernel_jobs(variants, toolkit, site, matrix)
        host_job = _host_job(platform, RELEASE, _limits(matrix))
        files = run_jobs(
            [host_job, *kernel_jobs],  # without measured costs they run in this order: the longest is first
            engine=workshop.engine,
            cache=Cache(work / "cache" / "objects"),
            folder=folder / "jobs",
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
        dist = folder / "dist" if is_trial(version) else work / "dist"
        wheel = make_wheel(payload=folder / "payload", dist=dist)
        _write_resources(folder, files, variants)
        _report_cost(folder, files, wheel, progress)
    progress.say(f"built {wheel} ({len(entries)} kernels, {wheel.stat().st_size / 1e6:.1f} MB)")
    return wheel


def install_in_place(wheel: Path) -> None:
    """Copy the compiled part of a wheel into the source tree, which then imports as an installed package.

    Raises:
        DiskFull: there is no room.
    """
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.startswith("flash_attn3/lib/") or name == "flash_attn3/build.json":
                write_atomically(ROOT / name, archive.read(name))


def compile_variants(
    *, variants: Sequence[Variant], artefact: Artefact, matrix: Matrix, workshop: Workshop, progress: Reporter
) -> tuple[PackEntry, ...]:
    """Compile variants into the cache; one that the compiler or a gate refuses is left out with a warning.

    Raises:
        FarmError, KernelsError: as :func:`build` does, except for a refused variant.
    """
    work = workshop.work.resolve()
    with _locked(work, progress):
        toolkit, site = _toolkit(artefact.toolkit, matrix, workshop, progress)
        files = run_jobs(
            _kernel_jobs(variants, toolkit, site, matrix),
            engine=workshop.engine,
            cache=Cache(work / "cache" / "objects"),
            folder=work / "build" / f"{artefact}-candidates" / "jobs",
            progress=progress,
            may_fail=True,
        )
    return tuple(
        PackEntry(variant, files[variant.name]["kernel.image"], artefact.toolkit)
        for variant in variants
        if variant.name in files
    )


def _selection(variants: Sequence[Variant]) -> str:
    """Return a short name of a selection of variants, which keeps its wheel apart from others."""
    return hashlib.sha256("\n".join(sorted(variant.name for variant in variants)).encode()).hexdigest()[:8]


@contextmanager
def _locked(work: Path, progress: Reporter) -> Iterator[None]:
    """Lock the work folder for this build, and remove the scratch files of killed ones."""
    with lock(work / "cache", progress.say):
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


def _limits(matrix: Matrix) -> Limits:
    return Limits(matrix.compile.time_limit_s, matrix.compile.memory_limit_mb * 1_000_000)


def _kernel_jobs(variants: Sequence[Variant], toolkit: Toolkit, site: Path, matrix: Matrix) -> list[Job]:
    return [_kernel_job(variant, toolkit, site, _limits(matrix)) for variant in variants]


def _kernel_job(variant: Variant, toolkit: Toolkit, site: Path, limits: Limits) -> Job:
    command = (
        *("{python}", "-m", "kernels.build.compile"),
        *("--variant", variant.name, "--toolkit", "{toolkit}"),
        *("--image", "{out}/kernel.image", "--report", "{out}/report.json"),
    )
    return Job(variant.name, inputs_digest(variant, toolkit), command, limits, site)


def _host_job(platform: Platform, version: str, limits: Limits) -> Job:
    target = str(platform.target)
    command = (
        *("{python}", "-m", "kernels.build.host"),
        *("--target", target, "--out", "{out}", "--version", version),
    )
    return Job(_HOST, host_digest(target, version), command, limits)


def _write_resources(folder: Path, files: _Files, variants: Sequence[Variant]) -> None:
    """Collect the compiler's resource reports into one file."""
    reports = {variant.name: json.loads(files[variant.name]["report.json"]) for variant in variants}
    write_atomically(folder / "resources.json", (json.dumps(reports, indent=1) + "\n").encode())


def _report_cost(folder: Path, files: _Files, wheel: Path, progress: Reporter) -> None:
    """Report and store the resource usage of the compiles, cached ones included."""
    cost = total_cost(files.items())
    document = {**asdict(cost), "jobs": len(files), "wheel_bytes": wheel.stat().st_size}
    write_atomically(folder / "cost.json", (json.dumps(document, indent=1) + "\n").encode())
    progress.say(
        f"all {len(files)} compiles, when they ran: {cost.cpu_seconds:.0f} s of processor time (the bar is "
        f"{CPU_BAR} s); "
        f"the largest, {cost.largest}, {cost.memory_bytes / 1e9:.2f} GB ({MEMORY_BAR / 1e9:.0f} GB)"
    )
    if cost.cpu_seconds > CPU_BAR or cost.memory_bytes > MEMORY_BAR:
        progress.warn("the compiles took more processor time or memory than the bar")
