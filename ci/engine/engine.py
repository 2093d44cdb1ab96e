"""Jobs, the interface of an engine that runs them, and the cache lookups around every engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ci.engine.cost import keep_costs, read_costs, usage_of
from ci.errors import BuildFailed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from ci.engine.cache import Cache
    from ci.engine.cost import Costs
    from ci.engine.process import Limits
    from ci.progress import Reporter


@dataclass(frozen=True)
class Job:
    """A command that writes files into an output folder of its own."""

    name: str
    key: str
    """The digest of all inputs that decide the files' bytes; the key of the files in the cache."""
    command: tuple[str, ...]
    """The argument list; the machine that runs it replaces ``{out}`` by the output folder, ``{python}`` by an
    interpreter that imports this tree, and ``{toolkit}`` by the folder of the toolkit."""
    limits: Limits
    """What the command may take before it is ended with its children."""
    toolkit: Path | None = None
    """The folder of the toolkit on this machine; another one gets a copy."""

    def runner(self, *, cache: Path, out: Path, python: str, toolkit: Path | None) -> list[str]:
        """Return the argument list of the program that runs this job (:mod:`ci.engine.job`).

        Args:
            cache: the folder of the cache that the program stores the files in.
            out: the output folder.
            python: the interpreter.
            toolkit: the folder of the toolkit on the machine that runs it.
        """
        options = ("--name", self.name, "--cache", str(cache), "--key", self.key, "--out", str(out))
        limits = ("--seconds", str(self.limits.seconds), "--memory", str(self.limits.memory_bytes))
        words = {"{out}": str(out), "{python}": python, "{toolkit}": str(toolkit)}
        command = list(self.command)
        for word, value in words.items():
            command = [part.replace(word, value) for part in command]
        return [python, "-m", "ci.engine.job", *options, *limits, *command]


@dataclass(frozen=True)
class RunContext:
    """What the jobs of one run share."""

    costs: Costs
    """What to expect of the jobs."""
    cache: Cache
    """Where their files go, each job's under its key."""
    folder: Path
    """Scratch space. It may hold the leftovers of a killed run, whose jobs may still be running."""
    progress: Reporter
    """Receives a step a job."""
    may_fail: bool
    """Whether the other jobs go on when one fails."""


class Engine(Protocol):
    """Runs jobs, on this machine or elsewhere."""

    def run(self, jobs: Sequence[Job], context: RunContext) -> Mapping[str, str]:
        """Run every job and store the files of each in the cache as soon as it succeeds.

        A job stores its files with :data:`ci.engine.cost.USAGE` among them.

        Args:
            jobs: at least one, the longest first; their names are unique.
            context: what they share.

        Returns:
            The jobs that failed, with the reason in one line; empty without ``may_fail``.

        Raises:
            BuildFailed: a job failed and ``may_fail`` is false; the exit code is the job's own.
            DiskFull: there is no room.
        """


def run_jobs(
    jobs: Sequence[Job],
    *,
    engine: Engine,
    cache: Cache,
    folder: Path,
    progress: Reporter,
    may_fail: bool = False,
) -> dict[str, dict[str, bytes]]:
    """Return the files of each job (job name -> file name -> bytes), running only jobs not in the cache.

    With ``may_fail`` the jobs that fail are left out, with a warning each.

    Raises:
        BuildFailed, DiskFull: as :meth:`Engine.run` does.
    """
    found = {job.name: cache.fetch(job.key, progress.warn) for job in jobs}
    kept = read_costs(costs_file(cache), progress)
    costs = kept.updated({name: usage_of(files) for name, files in found.items() if files is not None})
    missing = {job.name: job for job in jobs if found[job.name] is None}
    failures: Mapping[str, str] = {}
    progress.say(f"{len(missing)} of {len(jobs)} compiles to run; the others are in the cache")
    if missing:
        ordered = [missing[name] for name in costs.longest_first(missing)]
        failures = engine.run(ordered, RunContext(costs, cache, folder, progress, may_fail))
    made: dict[str, dict[str, bytes]] = {}
    for job in missing.values():
        if job.name in failures:
            progress.warn(failures[job.name])
            continue
        files = cache.load(job.key)
        if files is None:
            raise BuildFailed(f"{job.name}: its job succeeded but stored nothing in the cache")
        made[job.name] = files
    costs = costs.updated({name: usage_of(files) for name, files in made.items()})
    if costs != kept:
        keep_costs(costs_file(cache), costs)
    return {name: files for name, files in (found | made).items() if files is not None}


def costs_file(cache: Cache) -> Path:
    """Return the file that keeps the costs of jobs by their names, beside the cache: its keys change."""
    return cache.folder.with_name("costs.json")
