"""The local engine: runs jobs on this machine, in parallel, through ninja."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

import ninja
from ninja.ninja_syntax import Writer

from ci.engine.forecast import Forecast
from ci.engine.memory import available_memory
from ci.engine.outcome import build_failed, job_environment, reason_of
from ci.errors import DiskFull
from ci.files import room_in
from ci.output import reports_full_disk

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ci.engine.cache import Cache
    from ci.engine.engine import Job, RunContext

_STATUS = re.compile(r"\[job ended\] (.*)")
_FAILED = re.compile(r"FAILED: (?:\[.*\] )?job-(\d+)\b")
"""The line before the command line and the output of a job that failed."""
_LEAST_ROOM = 1 << 20  # free bytes of a disk below which a failed compile is put down to the full disk


@dataclass(frozen=True)
class LocalEngine:
    """Runs up to ``processors`` jobs at once, fewer where their measured memory is more than is free."""

    processors: int = 1

    def run(self, jobs: Sequence[Job], context: RunContext) -> dict[str, str]:
        """Run every job; see :meth:`ci.engine.engine.Engine.run`."""
        folder, costs = context.folder, context.costs
        with room_in(folder):
            for left in folder.glob("run-*"):  # of killed and failed runs
                shutil.rmtree(left, ignore_errors=True)
            # A killed run may leave jobs running, which must not write among the files of this run.
            scratch = folder / f"run-{os.getpid()}"
            scratch.mkdir(parents=True)
            file = _write_ninja_file(jobs, context.cache, scratch)
        names = [job.name for job in jobs]
        parallel = costs.parallel_jobs(names, processors=self.processors, memory=available_memory())
        failures = _run_ninja(file, parallel, Forecast(names, costs, context.progress), context)
        shutil.rmtree(scratch)
        return failures


def _write_ninja_file(jobs: Sequence[Job], cache: Cache, folder: Path) -> Path:
    file = folder / "build.ninja"
    with file.open("w", encoding="utf-8") as stream:
        writer = Writer(stream, width=110)  # type: ignore[arg-type]  # its types are wrong: it writes to a stream
        writer.comment("Written by ci.engine.local: one edge a job; each job stores its files in the cache.")
        writer.rule("job", command="$job", description="$name")
        for number, job in enumerate(jobs):
            out = folder / job.name
            out.mkdir()
            command = job.runner(cache=cache.folder, out=out, python=sys.executable, toolkit=job.toolkit)
            variables = {"name": job.name, "job": _shell(command)}
            # Nothing creates these outputs, so ninja runs every job; the cache keeps the results.
            writer.build([f"job-{number}"], "job", variables=variables)
    return file


def _shell(command: Sequence[str]) -> str:
    return shlex.join(command).replace("$", "$$")


def _run_ninja(file: Path, parallel: int, forecast: Forecast, context: RunContext) -> dict[str, str]:
    """Run the jobs; return those that failed and were allowed to, with the reasons."""
    failures = 0 if context.may_fail else 1  # the number of failures that stops ninja; 0: none does
    command = [str(Path(ninja.BIN_DIR) / "ninja"), "-f", file.name, "-j", str(parallel), "-k", str(failures)]
    environment = {**job_environment(context.cache), "NINJA_STATUS": "[job ended] "}
    process = subprocess.Popen(
        command, cwd=file.parent, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    output: list[str] = []
    with process:
        for line in process.stdout or ():  # never None: a pipe was requested
            if status := _STATUS.match(line):
                forecast.finish(status[1])
            output.append(line.rstrip("\n"))
    if process.returncode in {-signal.SIGINT, 128 + signal.SIGINT}:
        raise KeyboardInterrupt
    if process.returncode == 0:
        return {}
    # One compiler aborts without a message when the disk is full, hence the look at the disk itself.
    if shutil.disk_usage(file.parent).free < _LEAST_ROOM or reports_full_disk("\n".join(output)):
        raise DiskFull(f"{file.parent}: no room left while compiling; finished compiles are kept")
    reasons = _reasons(output, forecast.names)
    if context.may_fail:
        return reasons
    reason = next(iter(reasons.values()), "ninja failed without running a job")
    raise build_failed(reason, process.returncode, "\n".join(output), file.with_name("log.txt"))


def _reasons(output: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """Return the jobs that failed, each with one line: its own error and the compiler's first one."""
    reasons: dict[str, str] = {}
    lines = iter(output)
    for line in lines:
        if failed := _FAILED.match(line):
            name = names[int(failed[1])]
            block = list(takewhile(lambda line: not _STATUS.match(line), lines))
            reasons[name] = reason_of(block, name)
    return reasons
