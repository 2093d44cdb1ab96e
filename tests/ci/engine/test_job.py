"""A job as the build graph starts it: a process that runs a command, measures it and stores its files."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from ci.engine.cache import Cache
from ci.engine.cost import USAGE
from ci.engine.process import Limits

ROOT = Path(__file__).parents[3]
KEY = "ab" * 32
OUT = "{out}"
WIDE = Limits(seconds=60, memory_bytes=4_000_000_000)
BUSY = """
import sys, time
block = bytearray(200_000_000)
while time.process_time() < 0.5:
    pass
open(sys.argv[1] + "/file", "wb").write(b"made")
"""


def job_command(folder: Path, *command: str, limits: Limits = WIDE) -> list[str]:
    out = folder / "out"
    out.mkdir(exist_ok=True)
    options = ["--name", "one", "--cache", str(folder / "cache"), "--key", KEY, "--out", str(out)]
    options += ["--seconds", str(limits.seconds), "--memory", str(limits.memory_bytes)]
    return [
        sys.executable,
        "-m",
        "ci.engine.job",
        *options,
        *(part.replace(OUT, str(out)) for part in command),
    ]


def run_job(folder: Path, *command: str, limits: Limits = WIDE) -> subprocess.CompletedProcess[str]:
    started = job_command(folder, *command, limits=limits)
    return subprocess.run(started, check=False, cwd=ROOT, capture_output=True, text=True)


def test_a_job_stores_its_files_and_what_it_took(tmp_path: Path):
    done = run_job(tmp_path, sys.executable, "-c", BUSY, str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    files = Cache(tmp_path / "cache").load(KEY)
    assert files is not None
    assert files["file"] == b"made"
    usage = json.loads(files[USAGE])
    assert 0.5 <= usage["cpu_seconds"] < 5
    assert 200_000_000 <= usage["memory_bytes"] < 400_000_000


def test_a_job_that_fails_stores_nothing_and_passes_its_status_on(tmp_path: Path):
    done = run_job(tmp_path, "sh", "-c", 'echo half > "$0/file"; echo "k: error: why" >&2; exit 15', OUT)
    assert done.returncode == 15
    assert done.stderr == "k: error: why\n"
    assert Cache(tmp_path / "cache").load(KEY) is None


@pytest.mark.parametrize(
    ("number", "name"),
    [(11, "SIGSEGV"), (6, "SIGABRT"), (9, "SIGKILL, as the system does when memory runs out")],
)
def test_a_compiler_that_crashes_is_named_with_its_signal(tmp_path: Path, number: int, name: str):
    done = run_job(tmp_path, "sh", "-c", f'echo half > "$0/file"; ulimit -c 0; kill -{number} $$', OUT)
    assert done.returncode == 30
    assert done.stderr == f"farm: error: one: its compiler was ended by {name}\n"
    assert Cache(tmp_path / "cache").load(KEY) is None


def alive(process_file: Path) -> bool:
    """Whether the process runs whose number is in a file; an ended one may wait for its parent."""
    try:
        return psutil.Process(int(process_file.read_text())).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_compiler_that_hangs_is_ended_with_its_children(tmp_path: Path):
    """One child is in the compiler's session, one has left it."""
    hangs = (
        'sleep 60 & echo $! > "$0/near"; setsid sleep 60 & echo $! > "$0/far"; echo half > "$0/file"; wait'
    )
    started = time.monotonic()
    done = run_job(tmp_path, "sh", "-c", hangs, OUT, limits=Limits(1, WIDE.memory_bytes))
    assert time.monotonic() - started < 20
    assert done.returncode == 45
    used = r"ended after 1\.\d s, with 0\.\d s of processor time and 0\.\d\d GB of memory"
    assert re.fullmatch(rf"farm: error: one: {used}: its limit is 1 s\n", done.stderr)
    assert [child for child in ("near", "far") if alive(tmp_path / "out" / child)] == []
    assert Cache(tmp_path / "cache").load(KEY) is None


def test_a_compiler_that_eats_memory_is_ended_with_its_children(tmp_path: Path):
    """Each of two processes stays below the limit, both together do not."""
    eats = "import subprocess, sys, time; block = bytearray(200_000_000)\n"
    eats += "if len(sys.argv) < 2: subprocess.run([*sys.orig_argv, 'child'])\n"
    eats += "time.sleep(60)"
    done = run_job(tmp_path, sys.executable, "-c", eats, limits=Limits(60, 300_000_000))
    assert done.returncode == 45
    assert re.search(r"and 0\.[34]\d GB of memory: its limit is 0\.3 GB\n$", done.stderr), done.stderr
    assert Cache(tmp_path / "cache").load(KEY) is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_job_that_is_ended_ends_its_compiler(tmp_path: Path, number: signal.Signals):
    (tmp_path / "out").mkdir()
    child = tmp_path / "out" / "child"
    command = job_command(tmp_path, "sh", "-c", f'echo $$ > "{child}"; exec sleep 60')
    with subprocess.Popen(command, cwd=ROOT, start_new_session=True) as process:
        while not (child.is_file() and child.read_text()):
            time.sleep(0.02)
        process.send_signal(number)
        assert process.wait(10) == 130
    assert not alive(child)


def test_a_cache_that_cannot_be_written_is_one_error(tmp_path: Path):
    command = shlex.join(job_command(tmp_path, "true"))
    done = subprocess.run(
        ["sh", "-c", f"ulimit -f 0; exec {command}"],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 26
    assert done.stderr.startswith("farm: error: ")
    assert "no room left" in done.stderr
