"""The compile stage: run what the cache does not hold, through ninja, and return the files of every job."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import ninja
from ninja.ninja_syntax import Writer

from ci.errors import BuildFailed, DiskFull
from ci.files import room_in, write_atomically
from ci.project import ROOT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ci.engine.cache import Cache
    from ci.progress import Reporter

_STATUS = re.compile(r"\[(\d+)/(\d+)\] (.*)")
_OURS = re.compile(r"[\w.]+: error: (.*)")
"""How our own programs report: the text names the variant or the library."""
_BYTES_A_JOB = 1 << 30  # a compile stays under 1 GB
_LEAST_ROOM = 1 << 20  # bytes of a disk on which a compile cannot end well


@dataclass(frozen=True)
class Job:
    """A command that writes files into a folder of its own."""

    name: str
    key: str
    """The digest of everything that decides the files' bytes."""
    command: tuple[str, ...]
    """The argument list; ``{out}`` stands for the folder."""


def run_jobs(
    jobs: Sequence[Job],
    *,
    cache: Cache,
    folder: Path,
    parallel: int,
    progress: Reporter,
    may_fail: bool = False,
) -> dict[str, dict[str, bytes]]:
    """Return the files of each job (job name -> file name -> bytes), running only the jobs not in the cache.

    Beside its own files, every job has one that says what it took (:mod:`ci.engine.job`).

    Every job stores its own result as it ends, so a killed run loses no more than the jobs that were running.

    With ``may_fail`` the jobs that fail are left out, with a warning each.

    Raises:
        BuildFailed: if a job failed that may not; the exit code is the job's own.
        DiskFull: if there is no room.
    """
    found: dict[str, dict[str, bytes]] = {}
    missing: list[Job] = []
    refusals: list[str] = []
    for job in jobs:
        files = cache.fetch(job.key, progress.warn)
        if files is None:
            missing.append(job)
        else:
            found[job.name] = files
    if missing:
        with room_in(folder):
            shutil.rmtree(folder, ignore_errors=True)
            # A folder of its own: jobs that outlive a killed run must not write among this run's files.
            folder = folder / f"run-{os.getpid()}"
            folder.mkdir(parents=True)
            file = _write_ninja_file(missing, cache, folder)
        refusals = _run_ninja(file, parallel, cache, progress, may_fail=may_fail)
        shutil.rmtree(folder)
    for job in missing:
        files = cache.load(job.key)
        if files is None:
            if may_fail:
                named = re.compile(rf"\b{re.escape(job.name)}\b")
                said = next(filter(named.search, refusals), f"{job.name}: its job failed without a word")
                progress.warn(said)
                continue
            raise BuildFailed(f"{job.name}: its job ended well but stored nothing")
        found[job.name] = files
    return found


def parallel_jobs(available_memory: int, processors: int) -> int:
    """Return how many compiles to run at once in ``available_memory`` bytes on ``processors`` cores."""
    return max(1, min(processors, available_memory // _BYTES_A_JOB))


def available_memory() -> int:
    """Return the bytes of memory that can be had without swapping."""
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _write_ninja_file(jobs: Sequence[Job], cache: Cache, folder: Path) -> Path:
    file = folder / "build.ninja"
    with file.open("w", encoding="utf-8") as stream:
        writer = Writer(stream, width=110)  # type: ignore[arg-type]  # its types are wrong: it writes to a stream
        writer.comment(
            "Made by the compile stage: one edge a missing object, which stores itself when it is done."
        )
        writer.rule("job", command="$job", description="$name")
        for number, job in enumerate(jobs):
            out = folder / job.name
            out.mkdir()
            options = ("--cache", str(cache.folder), "--key", job.key, "--out", str(out))
            command = [part.replace("{out}", str(out)) for part in job.command]
            runner = (sys.executable, "-m", "ci.engine.job", *options)
            variables = {"name": job.name, "job": _shell((*runner, *command))}
            # The outputs are never made: what a job makes goes to the cache, and none here is done yet.
            writer.build([f"job-{number}"], "job", variables=variables)
    return file


def _shell(command: Sequence[str]) -> str:
    return shlex.join(command).replace("$", "$$")


def _run_ninja(file: Path, parallel: int, cache: Cache, progress: Reporter, *, may_fail: bool) -> list[str]:
    """Run the jobs, and return what those said that failed and may."""
    failures = 0 if may_fail else 1  # after how many to stop; 0: never
    command = [str(Path(ninja.BIN_DIR) / "ninja"), "-f", file.name, "-j", str(parallel), "-k", str(failures)]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "NINJA_STATUS": "[%f/%t] ",
        "ZIG_GLOBAL_CACHE_DIR": str(cache.folder.parent / "zig"),  # its runtime library is worth keeping
    }
    process = subprocess.Popen(
        command, cwd=file.parent, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    output: list[str] = []
    with process:
        for line in process.stdout or ():  # a pipe was asked for, so there is one
            status = _STATUS.match(line)
            if status:
                progress.step(int(status[1]), int(status[2]), f"compile {status[3]}")
            output.append(line.rstrip("\n"))
    if process.returncode in {-signal.SIGINT, 128 + signal.SIGINT}:
        raise KeyboardInterrupt
    if process.returncode == 0:
        return []
    failure = _failure(output, process.returncode, file.parent)
    if not may_fail or isinstance(failure, DiskFull):
        raise failure
    return _refusals(output)


def _refusals(output: Sequence[str]) -> list[str]:
    """Return what each job said that failed, with the line by which its compiler names the source."""
    said: list[str] = []
    explained = True
    for line in output:
        if match := _OURS.match(line):
            said.append(match[1])
            explained = False
        elif "error:" in line and not explained:
            said[-1] += f" {line}"
            explained = True
    return said


def _failure(output: Sequence[str], returncode: int, folder: Path) -> BuildFailed | DiskFull:
    """Make one line of the jobs' output, and keep all of it in a file."""
    # Not every compiler says so: one aborts without a word.
    if shutil.disk_usage(folder).free < _LEAST_ROOM or any("No space left" in line for line in output):
        return DiskFull(f"{folder}: no room left while compiling; what was finished is kept")
    log = folder / "log.txt"
    write_atomically(log, ("\n".join(output) + "\n").encode())
    text = next(iter(_refusals(output)), "a job failed without a word")
    return BuildFailed(
        f"{text} (all of it: {log})", returncode if 10 <= returncode < 30 else BuildFailed.exit_code
    )
