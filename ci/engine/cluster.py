"""The distributed engine: runs jobs on the nodes of a Ray cluster.

What a node needs comes from here: the sources as Ray's working directory, the toolkit through Ray's object
store. What it makes comes back as an object of the cache, so that a lost node costs the jobs that it ran.
"""

from __future__ import annotations

import logging
import os
import shutil
import socket
import sys
import time
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from functools import partial
from typing import IO, TYPE_CHECKING, Any

from ci.engine.forecast import Forecast
from ci.engine.node import Result, ToolkitCopy, pack_toolkit, run_on_node
from ci.engine.outcome import build_failed, reason_of
from ci.errors import ClusterUnavailable, CorruptObject
from ci.files import room_in, scratch_folder
from ci.output import last_line
from ci.project import ROOT
from kernels.build.toolkit import find_toolkit

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from ci.engine.engine import Job, RunContext

_SOURCES = ("ci", "kernels")
"""The packages that a job runs from."""
_LOSSES = 5
"""How often a job is started again when its node is lost."""
_MEMORY_STEP = 250_000_000
"""Ray keeps a queue for each size of jobs; few sizes keep the order in which jobs were handed in."""
_CONNECT_S = 10
_LOOK_S = 5
"""Seconds between two looks at whether a node is left."""
_PATIENCE_S = 60
"""Seconds that a cluster may be without a node that can run jobs."""


@dataclass(frozen=True)
class RayEngine:
    """Runs jobs on a Ray cluster, on as many nodes as it has."""

    address: str
    """Of its first node, such as ``10.0.0.1:6379``."""

    def run(self, jobs: Sequence[Job], context: RunContext) -> dict[str, str]:
        """Run every job; see :meth:`ci.engine.engine.Engine.run`.

        Raises:
            ClusterUnavailable: the cluster cannot be used, or no node is left.
        """
        folder = context.folder
        folder.mkdir(parents=True, exist_ok=True)
        messages = (folder / "cluster.txt").open("w", encoding="utf-8")
        with (
            room_in(folder),
            messages,
            redirect_stdout(messages),  # Ray's own, in colours; standard output is for results
            scratch_folder(folder) as scratch,
            _connected(self.address, scratch, messages) as ray,
        ):
            workers = _workers(ray)
            if not workers:
                raise ClusterUnavailable(
                    f"--address {self.address}: should have a node that compiles, has none"
                )
            processors = sum(node["Resources"]["CPU"] for node in workers)
            context.progress.say(f"cluster: {len(workers)} nodes with {processors:.0f} processors")
            forecast = Forecast([job.name for job in jobs], context.costs, context.progress)
            return _Run(ray, context).all(jobs, forecast)


@dataclass(frozen=True)
class _Run:
    """One run on a connected cluster."""

    ray: Any
    """The module; Ray's driver is one for each process."""
    context: RunContext

    def all(self, jobs: Sequence[Job], forecast: Forecast) -> dict[str, str]:
        """Run jobs; return those that failed and were allowed to, with the reasons."""
        toolkits = {site: self._copy(site) for site in {job.toolkit for job in jobs} if site is not None}
        nodes = _workers(self.ray)
        largest = max(node["Resources"]["memory"] for node in nodes)
        pending = {self._submit(job, toolkits, largest): job for job in jobs}
        failures: dict[str, str] = {}
        seen = time.monotonic()
        while pending:
            done, _ = self.ray.wait(list(pending), timeout=_LOOK_S)
            before, nodes = len(nodes), _workers(self.ray)
            if len(nodes) < before:
                self.context.progress.warn(
                    f"a node is lost, {len(nodes)} are left; the jobs that it ran start again"
                )
            if done or nodes:
                seen = time.monotonic()
            if time.monotonic() - seen > _PATIENCE_S:
                raise ClusterUnavailable(f"no node is left; {len(pending)} jobs have not run")
            for task in done:
                job = pending.pop(task)
                if reason := self._finish(job, task):
                    failures[job.name] = reason
                forecast.finish(job.name)
        return failures

    def _copy(self, site: Path) -> ToolkitCopy:
        toolkit = find_toolkit(site)
        stored = self.ray.put(pack_toolkit(site))
        fetch = partial(self.ray.get, stored)
        return ToolkitCopy(f"{toolkit.name}-{toolkit.digest[:12]}", toolkit.digest, fetch)

    def _submit(self, job: Job, toolkits: Mapping[Path, ToolkitCopy], largest: float) -> Any:
        steps = -(-self.context.costs.memory(job.name) // _MEMORY_STEP)
        options = {
            "name": job.name,
            "num_cpus": 1,
            "memory": min(steps * _MEMORY_STEP, int(largest)),  # Ray would wait for a larger node for ever
            "max_retries": _LOSSES,
        }
        copy = None if job.toolkit is None else toolkits[job.toolkit]
        task = self.ray.remote(run_on_node).options(**options)
        return task.remote(replace(job, toolkit=None), copy)

    def _finish(self, job: Job, task: Any) -> str:
        """Store the object of a job that ended; return the reason if it failed and was allowed to."""
        try:
            result: Result = self.ray.get(task)
            if result.status == 0:
                self.context.cache.adopt(job.key, result.data, f"{job.name}, from a node")
                return ""
        except self.ray.exceptions.RayError as error:
            result = Result(1, f"farm: error: {job.name}: {last_line(str(error), 'lost')}", b"")
        except CorruptObject as error:
            result = Result(error.exit_code, f"farm: error: {error}", b"")
        reason = reason_of(result.output.splitlines(), job.name)
        if self.context.may_fail:
            return reason
        raise build_failed(reason, result.status, result.output, self.context.folder / "log.txt")


@contextmanager
def _connected(address: str, scratch: Path, messages: IO[str]) -> Iterator[Any]:
    """Connect this process to a cluster, and yield Ray's module; what Ray says meanwhile goes to a file."""
    _require_listener(address)
    os.environ["RAY_AUTH_MODE"] = "token"  # a node runs what any driver sends
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        import ray  # noqa: PLC0415 (an extra: only this engine needs it)
    except ImportError as error:
        raise ClusterUnavailable(
            "--engine ray: should run where Ray is installed; ./scripts/farm build --engine ray sees to that"
        ) from error
    for package in _SOURCES:
        shutil.copytree(ROOT / package, scratch / package, ignore=shutil.ignore_patterns("__pycache__"))
    try:
        with _errors_into(messages):  # a warning a second, until it gives up
            ray.init(
                address=address,
                runtime_env={"working_dir": str(scratch)},
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise ClusterUnavailable(
            f"--address {address}: should be a cluster of `farm node`, with the same token and Python: "
            + last_line(str(error), type(error).__name__).partition(". ")[0]
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


@contextmanager
def _errors_into(file: IO[str]) -> Iterator[None]:
    """Send what this process writes to standard error, compiled code included, into a file."""
    sys.stderr.flush()
    kept = os.dup(2)
    os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _require_listener(address: str) -> None:
    """Fail at once where nobody listens; Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ClusterUnavailable(f"--address: should be HOST:PORT, such as 10.0.0.1:6379, got {address!r}")
    try:
        socket.create_connection((host, int(port)), _CONNECT_S).close()
    except OSError as error:
        raise ClusterUnavailable(
            f"--address {address}: should be a first node of `farm node`: {error}"
        ) from error


def _workers(ray: Any) -> list[dict[str, Any]]:
    """Return the nodes that can run a job."""
    alive = (node for node in ray.nodes() if node["Alive"])
    return [node for node in alive if node["Resources"].get("CPU", 0) >= 1 and "memory" in node["Resources"]]
