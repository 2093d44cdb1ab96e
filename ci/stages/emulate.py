"""The emulate stage: run the host part of a wheel for another processor in an emulator; write a report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ci.errors import BuildFailed, EmulationFailed, UnknownCell
from ci.gpu_side.report_file import write_report
from ci.output import last_line
from ci.platforms.emulated import emulated_machine
from ci.platforms.linux_aarch64 import LINUX_AARCH64
from ci.project import ROOT
from ci.proof.emulation import KIND, SCHEMA_VERSION, read_emulation
from ci.wheel.read import read_wheel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ci.platforms.emulated import Emulated, Machine
    from ci.progress import Reporter
    from ci.proof.emulation import EmulationReport
    from ci.wheel.read import WheelFile
    from matrix.model import Matrix, Platform

EMULATED = (LINUX_AARCH64,)
_TIME_LIMIT_S = 3600
"""Most seconds of one process; the slowest takes 150 on an idle core."""


@dataclass(frozen=True)
class _Process:
    """Sections of the suite that share a process, and the doubles in its library path."""

    sections: tuple[str, ...]
    doubles: tuple[str, ...] = ()


_PROCESSES = (
    _Process(("torch", "package", "tracing")),  # the longest, and the one that reports torch's version
    _Process(("runtime",), ("driver",)),
    _Process(("operators",), ("torch", "driver")),
)
_AT_ONCE = 2


@dataclass(frozen=True)
class _Suite:
    """A wheel, unpacked, and where its suite runs."""

    machine: Machine
    wheel: Path
    scratch: Path
    quick: bool


def emulate(
    *,
    wheel: Path,
    report: Path,
    matrix: Matrix,
    cache: Path,
    progress: Reporter,
    quick: bool = False,
) -> EmulationReport:
    """Run the suite of a wheel's host part, write the report, and return it.

    Args:
        wheel: of a platform that can be emulated.
        report: the file, which is replaced.
        matrix: lists the platforms.
        cache: holds the emulated machines.
        progress: receives a line for each section that ended.
        quick: leave out the slowest checks; such a report proves no wheel.

    Raises:
        NotJudged: a program or a package is missing here; nothing was written.
        UnknownCell: the wheel is of a platform that cannot be emulated, or needs none.
        CorruptWheel, DiskFull: the wheel or the disk.
        EmulationFailed: a check failed; the report holds each.
    """
    cache = cache.resolve()  # the suite runs in another folder
    facts = read_wheel(wheel)
    emulated, platform = _platform_of(facts, matrix)
    machine = emulated_machine(emulated, cache=cache, progress=progress)
    started = _now()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        suite = _Suite(machine, scratch / "wheel", scratch, quick)
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(suite.wheel)
        _compile_doubles(str(platform.target), scratch, cache)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            ended = list(pool.map(lambda process: _run(suite, process, progress), _PROCESSES))
    checks = [check for facts in ended for check in facts.pop("checks")]
    failed = [check for check in checks if check["failure"]]
    document = {
        "schema_version": SCHEMA_VERSION,
        "kind": KIND,
        "wheel_filename": facts.filename,
        "wheel_sha256": facts.sha256,
        "wheel_size": facts.size,
        "platform": platform.name,
        "started": started,
        "finished": _now(),
        "quick": quick,
        "emulator": machine.emulator_version,
        **ended[0],
        "checks": checks,
        "checks_passed": len(checks) - len(failed),
        "checks_failed": len(failed),
        "passed": bool(checks) and not failed,
    }
    write_report(report, document)
    written = read_emulation(report)
    if not written.passed:
        names = "; ".join(f"{check.name}: {check.failure}" for check in written.failed[:3])
        raise EmulationFailed(f"{facts.filename}: {len(failed)} of {len(checks)} checks failed: {names}")
    return written


def _platform_of(facts: WheelFile, matrix: Matrix) -> tuple[Emulated, Platform]:
    """Return the emulated machine that a wheel is for."""
    tags = {tag.rsplit("-", 1)[1] for tag in facts.tags}
    for emulated in EMULATED:
        for platform in matrix.platform:
            if platform.name == emulated.platform and platform.tag in tags:
                return emulated, platform
    names = ", ".join(emulated.platform for emulated in EMULATED)
    raise UnknownCell(
        f"{facts.filename}: should be a wheel for {names}, got one for {', '.join(sorted(tags))}"
    )


def _compile_doubles(target: str, folder: Path, cache: Path) -> None:
    """Compile the doubles of the driver and of torch that the scenarios of the host part need."""
    driver, torch = folder / "driver", folder / "torch"
    for made in (driver, torch):
        made.mkdir()
    command = [sys.executable, "-m", "tests.kernels.host.doubles", target, str(driver), str(torch)]
    variables = {**os.environ, "ZIG_GLOBAL_CACHE_DIR": str(cache / "zig")}
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BuildFailed(f"the doubles could not be compiled for {target}: {last_line(done.stderr, '')}")


def _run(suite: _Suite, process: _Process, progress: Reporter) -> dict[str, Any]:
    """Run sections in one emulated process and return what it found; its sudden end is a failed check."""
    begun = time.monotonic()
    name = " and ".join(process.sections)
    outcomes = suite.scratch / f"{process.sections[0]}.json"
    options = ["--quick"] if suite.quick else []
    command = suite.machine.python(
        *("-W", "ignore::UserWarning", "-m", "tests.emulated.suite", *options),
        *(outcomes, suite.wheel),
        *process.sections,
        path=(suite.wheel, ROOT),
        libraries=[suite.scratch / double for double in process.doubles],
    )
    failure = _failure(command, suite.scratch)
    if failure:
        check = {"section": process.sections[0], "name": "its process", "seconds": 0.0, "failure": failure}
        found: dict[str, Any] = {"machine": "", "python": "", "libc": "", "torch": "", "checks": [check]}
    else:
        found = json.loads(outcomes.read_text(encoding="utf-8"))
    failed = sum(bool(check["failure"]) for check in found["checks"])
    seconds = time.monotonic() - begun
    progress.say(f"{name}: {len(found['checks'])} checks, {failed} failed, in {seconds:.0f} s")
    return found


def _failure(command: Sequence[str], folder: Path) -> str:
    """Run an emulated process and return why it ended before its end; empty: it did not."""
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, check=False, timeout=_TIME_LIMIT_S
        )
    except subprocess.TimeoutExpired:
        return f"it took more than {_TIME_LIMIT_S} s"
    return "" if done.returncode == 0 else last_line(done.stderr, f"it ended with {done.returncode}")


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
