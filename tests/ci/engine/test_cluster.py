"""The distributed engine on a real Ray cluster: three nodes on this machine, one of which is killed.

Each node has a work folder of its own, so that the toolkit reaches it as it would another machine.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from ci.engine.cache import Cache
from ci.files import sha256_of
from kernels.build.host_inputs import host_digest
from kernels.build.version import RELEASE
from matrix.model import read_matrix
from tests.conftest import FEW

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[3]
FARM = [sys.executable, "-m", "ci"]


@dataclass(frozen=True)
class Node:
    process: subprocess.Popen[bytes]
    work: Path
    log: Path

    def started(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        return b"Ray runtime started" in self.log.read_bytes()

    def programs(self) -> list[psutil.Process]:
        """The node's processes, the node itself first."""
        with suppress(psutil.NoSuchProcess):
            root = psutil.Process(self.process.pid)
            return [root, *root.children(recursive=True)]
        return []

    def runs_a_job(self) -> bool:
        return any("ci.engine.job" in command_of(program) for program in self.programs())

    def kill(self) -> None:
        """Kill everything on the node at once, as a loss of power would."""
        for program in self.programs():
            with suppress(psutil.NoSuchProcess):
                program.send_signal(signal.SIGKILL)
        self.process.wait()


@dataclass(frozen=True)
class Cluster:
    address: str
    nodes: tuple[Node, ...]
    environment: dict[str, str]


def command_of(program: psutil.Process) -> list[str]:
    with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        return program.cmdline()
    return []


def wait_until(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 120
    while not true():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.02)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of three nodes with one processor each."""
    folder, address = tmp_path_factory.mktemp("cluster"), f"127.0.0.1:{free_port()}"
    (folder / "token").write_text("0123456789abcdef" * 3)
    session = tempfile.mkdtemp(prefix="fa3-")  # short: the names of sockets have 107 bytes at most
    environment = {**os.environ, "RAY_AUTH_TOKEN_PATH": str(folder / "token"), "RAY_TMPDIR": session}
    environment["PYTHONPATH"] = str(ROOT)
    nodes: list[Node] = []

    def start(name: str, *options: str) -> Node:
        log = folder / f"{name}.log"
        command = [*FARM, "node", "--cpus", "1", "--memory", "1500", "--work", str(folder / name), *options]
        with log.open("wb") as output:
            process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
        nodes.append(Node(process, folder / name, log))
        return nodes[-1]

    try:
        first = start("first", "--port", address.rpartition(":")[2])
        wait_until(first.started, "the first node starts")
        for name in ("second", "third"):  # one by one: Ray gives a node 30 s to start
            wait_until(start(name, "--address", address).started, "another node joins")
        yield Cluster(address, tuple(nodes), environment)
    finally:
        for node in reversed(nodes):
            node.kill()
        shutil.rmtree(session, ignore_errors=True)


def build_on(cluster: Cluster, work: Path, **environment: str) -> subprocess.Popen[str]:
    """Start the build of a few kernels on the cluster."""
    only = [argument for pattern in FEW for argument in ("--only", pattern)]
    command = [*FARM, "build", "--engine", "ray", "--address", cluster.address, "--work", str(work), *only]
    variables = {**cluster.environment, **environment}
    return subprocess.Popen(
        command, cwd=ROOT, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_a_build_loses_a_node_and_gives_the_same_wheel(
    cluster: Cluster, wheel: Path, toolkits: Path, new_work: Callable[[str], Path]
):
    """The host libraries come from the cache: they would take longer than all the rest."""
    work, stranger = new_work("work"), new_work("stranger")
    target = next(row.target for row in read_matrix().platform if row.name == "linux_x86_64")
    host = Cache(toolkits.parent / "objects").path(host_digest(str(target), RELEASE))
    copy = Cache(work / "cache" / "objects").path(host_digest(str(target), RELEASE))
    copy.parent.mkdir(parents=True)
    shutil.copyfile(host, copy)
    refused = build_on(cluster, stranger, RAY_AUTH_TOKEN_PATH="", RAY_AUTH_TOKEN="f" * 48)
    process = build_on(cluster, work)
    others = cluster.nodes[1:]
    with process:
        wait_until(
            lambda: any(node.runs_a_job() for node in others) or process.poll() is not None,
            "another node than the first runs a job",
        )
        lost = next(node for node in others if node.runs_a_job())
        lost.kill()
        out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert "cluster: 3 nodes with 3 processors" in errors
    assert "farm: warning: a node is lost, 2 are left; the jobs that it ran start again" in errors
    assert sha256_of(Path(out.strip())) == sha256_of(wheel)
    assert list((lost.work / "cache" / "toolkits").glob("12.8-*"))  # it had none
    with refused:
        _, errors = refused.communicate(timeout=120)
    assert refused.returncode == 46
    *_, compiles, error = errors.splitlines()
    assert compiles.endswith("compiles to run; the others are in the cache")
    assert error.startswith(f"farm: error: --address {cluster.address}: should be a cluster of")
    assert not list((stranger / "cache").glob("objects/*"))


def test_a_job_that_fails_on_a_node_is_one_line_like_a_local_one(cluster: Cluster, tmp_path: Path):
    script = f"""
import json
from pathlib import Path
from ci.engine.cache import Cache
from ci.engine.cluster import RayEngine
from ci.engine.engine import run_jobs
from ci.engine.process import Limits
from tests.ci.engine.test_local import LIMITS, job
from tests.quiet import Quiet
jobs = [
    job("good", 'printf made > "$0/file"'),
    job("hangs", "sleep 60", Limits(1, LIMITS.memory_bytes)),
    job("crashes", "kill -11 $$"),
    job("spills", "echo 'k: error: spills: too many registers' >&2; exit 15"),
]
work, progress = Path({str(tmp_path)!r}), Quiet()
made = run_jobs(
    jobs, engine=RayEngine({cluster.address!r}), cache=Cache(work / "cache" / "objects"),
    folder=work / "jobs", progress=progress, may_fail=True,
)
print(json.dumps([{{name: files["file"].decode() for name, files in made.items()}}, progress.warned]))
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        check=True,
        cwd=ROOT,
        env=cluster.environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    made, warned = json.loads(done.stdout.splitlines()[-1])
    assert made == {"good": "made"}
    hangs, crashes, spills = warned
    assert hangs.startswith("hangs: ended after 1.")
    assert crashes == "crashes: its compiler was ended by SIGSEGV"
    assert spills == "spills: too many registers"


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("10.0.0.1", "--address: should be HOST:PORT, such as 10.0.0.1:6379, got '10.0.0.1'"),
        ("127.0.0.1:1", "--address 127.0.0.1:1: should be a first node of `farm node`: "),
    ],
)
def test_an_address_of_no_cluster_is_one_error(address: str, reason: str, new_work: Callable[[str], Path]):
    command = [*FARM, "build", "--engine", "ray", "--address", address, "--only", "combine_sm80"]
    work = new_work("work")
    done = subprocess.run(
        [*command, "--work", str(work)], check=False, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 46
    assert done.stderr.splitlines()[-1].startswith(f"farm: error: {reason}")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("options", [["--engine", "ray"], ["--address", "127.0.0.1:1"]])
def test_the_engine_and_its_address_belong_together(options: list[str]):
    done = subprocess.run([*FARM, "build", *options], check=False, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "--engine ray and --address HOST:PORT belong together" in done.stderr
