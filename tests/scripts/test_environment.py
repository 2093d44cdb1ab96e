"""The scripts' first runs in a fresh clone: side by side, interrupted, with other requirements, read-only.

The clone is a copy of this tree whose farm needs one tiny package from a folder: a set-up takes seconds.
"""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
PROGRAM = """
import os, pathlib, sys, time
import tiny
print(tiny.VERSION, sys.prefix, flush=True)
while "wait" in sys.argv and not pathlib.Path(sys.argv[-1]).exists():
    time.sleep(0.05)
import tiny.late
print(tiny.late.VERSION, flush=True)
"""


def tiny_wheel(folder: Path, version: str) -> str:
    """Write the wheel of the package that the clone's farm needs; return the line that requires it."""
    info = f"tiny-{version}.dist-info"
    members = {
        "tiny/__init__.py": f"VERSION = {version!r}\n",
        "tiny/late.py": f"VERSION = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: tiny\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = []
    for name, text in members.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        rows.append(f"{name},sha256={digest},{len(text)}\n")
    members[f"{info}/RECORD"] = "".join([*rows, f"{info}/RECORD,,\n"])
    path = folder / f"tiny-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return f"tiny=={version} --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"


@dataclass(frozen=True)
class Clone:
    """A fresh clone of a small tree."""

    root: Path
    wheels: Path

    def require(self, version: str) -> None:
        """Change the requirements of the farm."""
        (self.root / "requirements" / "farm.txt").write_text(tiny_wheel(self.wheels, version))

    def start(self, *arguments: str | Path, **environment: str) -> subprocess.Popen[str]:
        """Start the farm, as a user would, in a process group of its own."""
        variables = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.wheels), **environment}
        return subprocess.Popen(
            [sys.executable, self.root / "scripts" / "farm", *arguments],
            env={**os.environ, **variables},
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str | Path, **environment: str) -> tuple[int, str, str]:
        """Run the farm; return its exit code and output."""
        return finished(self.start(*arguments, **environment))

    def environments(self) -> list[str]:
        """Return the names of the environments."""
        return sorted(path.name for path in (self.root / ".farm" / "venvs").glob("farm-*"))


def finished(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    with process:
        out, err = process.communicate(timeout=120)
    return process.returncode, out, err


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    clone = Clone(tmp_path / "clone", tmp_path / "wheels")
    clone.wheels.mkdir()
    for name in ("scripts", "ci"):
        shutil.copytree(ROOT / name, clone.root / name, ignore=shutil.ignore_patterns("__pycache__"))
    (clone.root / "ci" / "__main__.py").write_text(PROGRAM)
    (clone.root / "requirements").mkdir()
    clone.require("1.0")
    return clone


@pytest.fixture(autouse=True)
def own_python() -> Iterator[None]:
    """The user's own Python, and the environment of these tests, have the packages that they had."""
    ours, base = sysconfig.get_path("purelib"), sysconfig.get_path("purelib", vars={"base": sys.base_prefix})
    folders = {Path(ours), Path(base)}
    before = {folder: sorted(folder.iterdir()) for folder in folders}
    yield
    assert {folder: sorted(folder.iterdir()) for folder in folders} == before


def wait_for(process: subprocess.Popen[str], folder: Path, pattern: str) -> None:
    deadline = time.monotonic() + 60
    while not list(folder.glob(pattern)):
        assert process.poll() is None, "the set-up ended too soon"
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("delay", [0, 2])
def test_two_first_runs_share_one_environment(clone: Clone, delay: float):
    first = clone.start()
    time.sleep(delay)
    results = [finished(process) for process in (clone.start(), first)]
    (name,) = clone.environments()
    expected = f"1.0 {clone.root / '.farm' / 'venvs' / name}\n1.0\n"
    assert [(code, out) for code, out, _ in results] == [(0, expected)] * 2
    assert sorted(err.count("setting up") for _, _, err in results) == [0, 1]
    assert (clone.root / ".farm" / "venvs" / "farm").resolve().name == name


def test_other_requirements_leave_the_environment_of_a_running_farm(clone: Clone, tmp_path: Path):
    running = clone.start("wait", tmp_path / "go on")
    wait_for(running, clone.root / ".farm" / "venvs", "farm")
    clone.require("2.0")
    assert clone.run()[:2] == (0, f"2.0 {(clone.root / '.farm' / 'venvs' / 'farm').resolve()}\n2.0\n")
    assert len(clone.environments()) == 2
    (tmp_path / "go on").touch()
    code, out, err = finished(running)
    assert (code, out.splitlines()[-1]) == (0, "1.0"), err
    clone.require("3.0")  # nobody uses the other two any more
    assert clone.run()[0] == 0
    assert len(clone.environments()) == 1


@pytest.mark.parametrize("moment", ["bin/pip*", "lib/*/site-packages/tiny"])
def test_a_run_after_a_kill_sets_up_again(clone: Clone, moment: str):
    """Its pip may still run: only the script itself is killed."""
    killed = clone.start()
    wait_for(killed, clone.root / ".farm" / "venvs", f"farm-*/{moment}")
    killed.kill()
    code, out, err = clone.run()
    assert (code, out.splitlines()[-1]) == (0, "1.0"), err
    assert len(clone.environments()) == 1
    assert finished(killed)[0] == -signal.SIGKILL


def test_an_interrupted_set_up_is_one_line_and_goes_on(clone: Clone):
    process = clone.start()
    wait_for(process, clone.root / ".farm" / "venvs", "farm-*/bin/python")
    os.killpg(process.pid, signal.SIGINT)  # what Ctrl-C sends
    code, _, err = finished(process)
    assert code == 130
    assert err.splitlines()[-1] == "farm: error: interrupted; run the same command again to resume"
    assert "Traceback" not in err
    assert clone.run()[0] == 0


@pytest.mark.parametrize("how", ["option", "option with =", "variable"])
def test_the_environments_are_in_the_work_folder(clone: Clone, tmp_path: Path, how: str):
    work = tmp_path / "elsewhere"
    arguments = {"option": ["--work", work], "option with =": [f"--work={work}"], "variable": []}[how]
    code, out, _ = clone.run(*arguments, **({"FARM_WORK": str(work)} if how == "variable" else {}))
    assert code == 0
    assert out.startswith(f"1.0 {work / 'venvs' / 'farm-'}")
    assert not (clone.root / ".farm").exists()


def test_a_work_folder_that_cannot_be_written_is_one_line(clone: Clone):
    (clone.root / ".farm").write_text("a file")
    code, out, err = clone.run()
    assert (code, out) == (1, "")
    (line,) = err.splitlines()
    assert line.startswith("farm: error: ")
    assert str(clone.root / ".farm") in line
    assert "FARM_WORK" in line


def test_pip_failing_is_its_message_and_one_line(clone: Clone):
    next(clone.wheels.iterdir()).unlink()
    code, _, err = clone.run()
    assert code == 1
    assert err.splitlines()[-1].startswith("farm: error: pip could not install ")
    assert "Traceback" not in err


def test_variables_that_send_pip_elsewhere_do_not_count(clone: Clone, tmp_path: Path):
    code, _, err = clone.run(PIP_TARGET=str(tmp_path / "target"), PIP_USER="1")
    assert code == 0, err
    assert not (tmp_path / "target").exists()


def test_a_site_in_a_bucket_takes_an_environment_with_further_packages(clone: Clone) -> None:
    (clone.root / "requirements" / "s3.txt").write_text(tiny_wheel(clone.wheels, "2.0"))
    for site in (["--site", "s3://bucket/fa3"], ["--site=s3://bucket/fa3"]):
        code, out, err = clone.run("publish", *site)
        assert (code, out.split()[0]) == (0, "2.0"), err
    code, out, err = clone.run("publish", "--site", "folder")
    assert (code, out.split()[0]) == (0, "1.0"), err
