"""A job as the build graph starts it: a process that runs a command, measures it and stores its files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ci.engine.cache import Cache
from ci.engine.job import USAGE, total_cost

ROOT = Path(__file__).parents[3]
KEY = "ab" * 32
BUSY = """
import sys, time
block = bytearray(200_000_000)
while time.process_time() < 0.5:
    pass
open(sys.argv[1] + "/file", "wb").write(b"made")
"""


def run_job(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    out = folder / "out"
    out.mkdir(exist_ok=True)
    options = ["--cache", str(folder / "cache"), "--key", KEY, "--out", str(out)]
    return subprocess.run(
        [sys.executable, "-m", "ci.engine.job", *options, *command],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


def test_a_job_stores_its_files_and_what_it_took(tmp_path: Path):
    done = run_job(tmp_path, sys.executable, "-c", BUSY, str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    files = Cache(tmp_path / "cache").load(KEY)
    assert files is not None
    assert files["file"] == b"made"
    usage = json.loads(files[USAGE])
    assert 0.5 <= usage["cpu_seconds"] < 5
    assert 200_000_000 <= usage["memory_bytes"] < 400_000_000


@pytest.mark.parametrize(("script", "status"), [("exit 15", 15), ("kill -9 $$", 137)])
def test_a_job_that_fails_stores_nothing_and_passes_its_status_on(tmp_path: Path, script: str, status: int):
    done = run_job(tmp_path, "sh", "-c", f"echo 'kernels: error: why' >&2; {script}")
    assert done.returncode == status
    assert done.stderr == "kernels: error: why\n"
    assert Cache(tmp_path / "cache").load(KEY) is None


def test_a_cache_that_cannot_be_written_is_one_error(tmp_path: Path):
    (tmp_path / "out").mkdir()
    limited = f"ulimit -f 0; exec {sys.executable} -m ci.engine.job --cache {tmp_path / 'cache'} --key {KEY}"
    done = subprocess.run(
        ["sh", "-c", f"{limited} --out {tmp_path / 'out'} true"],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 26
    assert done.stderr.startswith("farm: error: ")
    assert "no room left" in done.stderr


def test_costs_add_up_and_name_the_largest():
    jobs = {
        name: {USAGE: json.dumps({"cpu_seconds": seconds, "memory_bytes": memory}).encode()}
        for name, seconds, memory in (("one", 1.5, 10), ("two", 2.0, 30), ("three", 0.25, 20))
    }
    cost = total_cost(jobs.items())
    assert (cost.cpu_seconds, cost.largest, cost.memory_bytes) == (3.75, "two", 30)
