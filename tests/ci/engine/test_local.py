from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ci.engine.cache import Cache
from ci.engine.cost import USAGE
from ci.engine.engine import Job, run_jobs
from ci.engine.local import LocalEngine
from ci.engine.memory import available_memory
from ci.engine.process import Limits
from ci.errors import BuildFailed
from tests.quiet import Quiet

ROOT = Path(__file__).parents[3]


LIMITS = Limits(60, 1_000_000_000)


def job(name: str, script: str, limits: Limits = LIMITS) -> Job:
    """A job that runs a shell script in which $0 is its folder."""
    key = hashlib.sha256((name + script).encode()).hexdigest()
    return Job(name, key, ("sh", "-c", script, "{out}"), limits)


def counting(name: str, log: Path) -> Job:
    return job(name, f'echo {name} >> "{log}"; printf {name} > "$0/file"')


def run(jobs: list[Job], work: Path, progress: Quiet, parallel: int = 2) -> dict[str, dict[str, bytes]]:
    """The files that the jobs made, without the resource usage of each."""
    made = run_jobs(
        jobs,
        engine=LocalEngine(parallel),
        cache=Cache(work / "cache"),
        folder=work / "jobs",
        progress=progress,
    )
    assert all(USAGE in files for files in made.values())
    return {name: {file: files[file] for file in files if file != USAGE} for name, files in made.items()}


def test_jobs_run_once_and_then_come_from_the_cache(tmp_path: Path):
    log = tmp_path / "log"
    jobs = [counting(name, log) for name in ("one", "two", "three")]
    progress = Quiet()
    first = run(jobs, tmp_path, progress)
    assert first == {name: {"file": name.encode()} for name in ("one", "two", "three")}
    assert progress.steps[-1] == (3, 3)
    assert run(jobs, tmp_path, Quiet()) == first
    assert sorted(log.read_text().split()) == ["one", "three", "two"]


def test_only_what_changed_runs_again(tmp_path: Path):
    log = tmp_path / "log"
    run([counting("one", log), counting("two", log)], tmp_path, Quiet())
    changed = job("two", f'echo changed >> "{log}"; printf new > "$0/file"')
    assert run([counting("one", log), changed], tmp_path, Quiet())["two"] == {"file": b"new"}
    assert sorted(log.read_text().split()) == ["changed", "one", "two"]


def test_a_corrupt_object_is_made_again_with_a_warning(tmp_path: Path):
    log = tmp_path / "log"
    one = counting("one", log)
    good = run([one], tmp_path, Quiet())
    path = Cache(tmp_path / "cache").path(one.key)
    path.write_bytes(path.read_bytes()[:-1])
    progress = Quiet()
    assert run([one], tmp_path, progress) == good
    assert "truncated or altered" in progress.warned[0]
    assert log.read_text().split() == ["one", "one"]


def test_a_failure_keeps_its_exit_code_and_says_one_line(tmp_path: Path):
    bad = job("bad", "echo 'kernels: error: variant bad: spills' >&2; exit 15")
    with pytest.raises(BuildFailed, match=r"^variant bad: spills") as caught:
        run([bad], tmp_path, Quiet())
    assert caught.value.exit_code == 15
    assert "\n" not in str(caught.value)


def test_a_crash_without_a_message_is_a_failed_build(tmp_path: Path):
    with pytest.raises(BuildFailed, match=r"^bad: its job failed without a message") as caught:
        run([job("bad", "exit 1")], tmp_path, Quiet())
    assert caught.value.exit_code == 30


def test_what_was_finished_before_a_failure_is_kept(tmp_path: Path):
    log = tmp_path / "log"
    good = counting("good", log)
    with pytest.raises(BuildFailed):
        run([good, job("bad", "exit 14")], tmp_path, Quiet(), parallel=1)
    run([good], tmp_path, Quiet())
    assert log.read_text().split() == ["good"]


def test_jobs_that_may_fail_are_left_out_with_a_warning_each(tmp_path: Path):
    """Each warning holds the compiler's messages about its own job only."""
    messages = {"one": "is refused:\\nx.cu(42): error: no\\nx.cu(43): error: nor this", "three": "spills"}
    bad = [job(name, f"printf 'k: error: {name} {text}\\n' >&2; exit 15") for name, text in messages.items()]
    good = [job(name, f'printf {name} > "$0/file"') for name in ("two", "four")]
    progress = Quiet()
    jobs = [bad[0], good[0], bad[1], good[1]]
    made = run_jobs(
        jobs,
        engine=LocalEngine(),
        cache=Cache(tmp_path / "cache"),
        folder=tmp_path / "jobs",
        progress=progress,
        may_fail=True,
    )
    assert {name: files["file"] for name, files in made.items()} == {"two": b"two", "four": b"four"}
    assert progress.warned == ["one is refused: x.cu(42): error: no", "three spills"]


def test_a_job_that_may_fail_and_says_nothing_is_named(tmp_path: Path):
    progress = Quiet()
    made = run_jobs(
        [job("one", "kill -9 $$"), job("one_more", "echo 'k: error: one_more spills' >&2; exit 15")],
        engine=LocalEngine(),
        cache=Cache(tmp_path / "cache"),
        folder=tmp_path / "jobs",
        progress=progress,
        may_fail=True,
    )
    assert made == {}
    killed = "one: its compiler was ended by SIGKILL, as the system does when memory runs out"
    assert progress.warned == [killed, "one_more spills"]


def test_a_job_that_hangs_ends_the_run_with_one_line_and_what_was_made_is_kept(tmp_path: Path):
    good, hangs = counting("good", tmp_path / "log"), job("hangs", "sleep 60", Limits(1, 1_000_000_000))
    with pytest.raises(
        BuildFailed, match=r"^hangs: ended after 1\.\d s, .*: its limit is 1 s \(full"
    ) as caught:
        run([good, hangs], tmp_path, Quiet())
    assert caught.value.exit_code == 45
    assert "\n" not in str(caught.value)
    run([good], tmp_path, Quiet())
    assert (tmp_path / "log").read_text().split() == ["good"]


def test_paths_with_odd_characters_work(tmp_path: Path):
    work = tmp_path / "a b$c:d'e"
    assert run([job("one", 'printf 1 > "$0/file"')], work, Quiet()) == {"one": {"file": b"1"}}


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path):
    log = tmp_path / "log"
    script = f"""
import sys
from pathlib import Path
from tests.ci.engine.test_local import counting, job, run
from tests.quiet import Quiet
log = Path({str(log)!r})
slow = job("slow", f'echo slow >> "{{log}}"; sleep 30; printf slow > "$0/file"')
run([counting("quick", log), slow], Path({str(tmp_path)!r}), Quiet(), parallel=1)
"""
    process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, start_new_session=True)
    with process:
        deadline = time.monotonic() + 30
        while not (log.exists() and "slow" in log.read_text()):
            assert time.monotonic() < deadline, "the second job never started"
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    again = [counting("quick", log), job("slow", f'echo again >> "{log}"; printf slow > "$0/file"')]
    assert run(again, tmp_path, Quiet()) == {"quick": {"file": b"quick"}, "slow": {"file": b"slow"}}
    assert log.read_text().split() == ["quick", "slow", "again"]


def test_the_next_run_starts_with_the_longest_and_the_new_job(tmp_path: Path):
    """The sources change in between, so that every job runs again."""
    log = tmp_path / "log"
    spin = "i=0; while [ $i -lt {} ]; do i=$((i+1)); done; {}; echo {} >> '{}'"
    turns = {"short": 1, "long": 300_000, "middle": 100_000}

    def jobs(change: str, names: list[str]) -> list[Job]:
        return [job(name, spin.format(turns.get(name, 1), change, name, log)) for name in names]

    run(jobs("true", list(turns)), tmp_path, Quiet(), parallel=1)
    assert log.read_text().split() == list(turns)
    log.unlink()
    run(jobs("true again", [*turns, "new"]), tmp_path, Quiet(), parallel=1)
    assert log.read_text().split() == ["new", "long", "middle", "short"]


def test_jobs_that_would_not_fit_into_the_memory_run_one_after_the_other(tmp_path: Path):
    """Each took half of what is free when it ran last, and the estimate has a margin."""
    log, free = tmp_path / "log", available_memory()
    (tmp_path / "costs.json").write_text(
        json.dumps({name: {"cpu_seconds": 1, "memory_bytes": free // 2} for name in ("one", "two")})
    )
    script = "echo start >> '{0}'; sleep 0.5; echo end >> '{0}'"
    run([job(name, script.format(log)) for name in ("one", "two")], tmp_path, Quiet(), parallel=2)
    assert log.read_text().split() == ["start", "end", "start", "end"]
    log.unlink()
    run([job(name, script.format(log)) for name in ("three", "four")], tmp_path, Quiet(), parallel=2)
    assert log.read_text().split() == ["start", "start", "end", "end"]
