"""The cache lookups around an engine, with an engine that runs one job after the other in this process."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from ci.engine.cache import Cache
from ci.engine.cost import USAGE, Costs
from ci.engine.engine import Engine, Job, RunContext, run_jobs
from ci.engine.job import main
from ci.engine.process import Limits
from ci.errors import BuildFailed
from tests.quiet import Quiet

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


@dataclass
class Serial:
    """Runs jobs one by one; those that ``lost`` names are reported as done, but store nothing."""

    ran: list[str] = field(default_factory=list)
    costs: Costs = field(default_factory=lambda: Costs({}))
    lost: tuple[str, ...] = ()

    def run(self, jobs: Sequence[Job], context: RunContext) -> dict[str, str]:
        self.costs = context.costs
        failures = {}
        for number, job in enumerate(jobs, start=1):
            self.ran.append(job.name)
            out = context.folder / job.name
            out.mkdir(parents=True)
            command = [part.replace("{out}", str(out)) for part in job.command]
            options = [
                "--name",
                job.name,
                "--cache",
                str(context.cache.folder),
                "--key",
                job.key,
                "--out",
                str(out),
            ]
            options += ["--seconds", str(job.limits.seconds), "--memory", str(job.limits.memory_bytes)]
            if job.name not in self.lost and (status := main([*options, *command])) != 0:
                failures[job.name] = f"{job.name}: ended with {status}"
            context.progress.step(number, len(jobs), job.name)
        if failures and not context.may_fail:
            raise BuildFailed("; ".join(failures.values()), 15)
        return failures


LIMITS = Limits(60, 1_000_000_000)


def job(name: str, script: str) -> Job:
    return Job(name, hashlib.sha256(script.encode()).hexdigest(), ("sh", "-c", script, "{out}"), LIMITS)


GOOD = job("good", 'printf made > "$0/file"')
BAD = job("bad", "exit 3")


def files_of(
    work: Path, jobs: list[Job], engine: Engine, progress: Quiet, *, may_fail: bool = False
) -> dict[str, list[str]]:
    """Job name -> names of its files."""
    made = run_jobs(
        jobs,
        engine=engine,
        cache=Cache(work / "cache"),
        folder=work / f"jobs-{len(progress.steps)}",
        progress=progress,
        may_fail=may_fail,
    )
    return {name: sorted(files) for name, files in made.items()}


def test_an_engine_runs_what_the_cache_lacks(tmp_path: Path):
    engine, progress = Serial(), Quiet()
    expected = {"good": ["file", USAGE]}
    assert files_of(tmp_path, [GOOD], engine, progress) == expected
    assert files_of(tmp_path, [GOOD], engine, progress) == expected
    assert engine.ran == ["good"]
    other = job("other", 'printf other > "$0/x"')
    assert files_of(tmp_path, [other, GOOD], engine, progress) == {"other": [USAGE, "x"], **expected}
    assert engine.ran == ["good", "other"]
    assert [line.split(";")[0] for line in progress.said] == [
        *("1 of 1 compiles to run", "0 of 1 compiles to run", "1 of 2 compiles to run")
    ]


def test_a_failure_that_is_allowed_is_a_warning(tmp_path: Path):
    progress = Quiet()
    assert files_of(tmp_path, [BAD, GOOD], Serial(), progress, may_fail=True) == {"good": ["file", USAGE]}
    assert progress.warned == ["bad: ended with 3"]


def test_a_failure_that_is_not_allowed_ends_the_run(tmp_path: Path):
    with pytest.raises(BuildFailed, match=r"^bad: ended with 3$") as caught:
        files_of(tmp_path, [BAD, GOOD], Serial(), Quiet())
    assert caught.value.exit_code == 15


def test_what_jobs_took_is_kept_for_the_next_run(tmp_path: Path):
    """By their names, for the keys change with the sources; also of jobs that come from the cache."""
    first, second = Serial(), Serial()
    files_of(tmp_path, [GOOD], first, Quiet())
    assert first.costs.measured == {}
    (tmp_path / "costs.json").unlink()
    files_of(tmp_path, [GOOD, job("other", "true")], second, Quiet())
    assert set(second.costs.measured) == {"good"}
    assert second.costs.measured["good"].memory_bytes > 0
    assert set(json.loads((tmp_path / "costs.json").read_text())) == {"good", "other"}


def test_an_engine_that_loses_a_result_is_found(tmp_path: Path):
    with pytest.raises(BuildFailed, match=r"^good: its job succeeded but stored nothing in the cache$"):
        files_of(tmp_path, [GOOD], Serial(lost=("good",)), Quiet())
