"""First use of the kernels, in a process of its own: under graph capture, from many threads, after a fork.

``python -m flash_attn3.checks.behaviour.fresh_process NAME`` runs one check and exits 0, or prints what went
wrong and exits 1.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import torch

import flash_attn3
from flash_attn3 import _native
from flash_attn3.checks.cases.case import Case
from flash_attn3.checks.data.inputs import make_inputs
from flash_attn3.checks.ops.fwd import public_forward, run_case
from flash_attn3.checks.outcome import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

_CASE = Case("bf16", True, 2, 300, 400, 4, 2)
_TIMEOUT = 180  # seconds


def run_fresh(name: str) -> Outcome:
    """Run one check of ``FRESH`` in a new process, with this package."""
    paths = [str(Path(flash_attn3.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "flash_attn3.checks.behaviour.fresh_process", name],
            cwd=paths[0],  # the folder that Python searches first
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            capture_output=True,
            text=True,
            timeout=_TIMEOUT,
            check=False,
        )
        failures = (
            [] if done.returncode == 0 else [f"exit {done.returncode}: {(done.stdout + done.stderr)[-2000:]}"]
        )
    except subprocess.TimeoutExpired:
        failures = [f"did not end within {_TIMEOUT} s"]
    return Outcome("fresh", name, {}, {}, tuple(failures))


def _under_capture() -> list[str]:
    device = torch.device("cuda", torch.cuda.current_device())
    inputs = make_inputs(_CASE, device)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out, lse = public_forward(inputs.q, inputs.k, inputs.v, None, _CASE.causal)
    graph.replay()
    torch.cuda.synchronize()
    expected_out, expected_lse = public_forward(inputs.q, inputs.k, inputs.v, None, _CASE.causal)
    if not torch.equal(out, expected_out) or not torch.equal(lse, expected_lse):
        return ["a call captured as the first one replays to another result"]
    return _plain()


def _in_threads() -> list[str]:
    device = torch.device("cuda", torch.cuda.current_device())
    failures: list[str] = []
    start = threading.Barrier(8)

    def work(thread: int) -> None:
        start.wait()
        case = Case(("bf16", "fp16")[thread % 2], thread % 4 < 2, 2, 300, 400, 4, 2)
        with torch.cuda.device(device), torch.cuda.stream(torch.cuda.Stream(device)):
            outcome = run_case(case, public_forward, device)
        failures.extend(f"thread {thread}: {text}" for text in outcome.failures)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failures


def _after_fork() -> list[str]:
    """The parent imports the package, lists its kernels and is refused; only its children use the GPU."""
    _native.kernels()
    cpu = torch.zeros(1, 1, 1, 128, dtype=torch.bfloat16)
    with contextlib.suppress(ValueError):
        public_forward(cpu, cpu, cpu, None, False)
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=_exit_with, args=(_plain,)) for _ in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join(_TIMEOUT / 2)
    return [
        f"child {index} exited {child.exitcode}"
        for index, child in enumerate(children)
        if child.exitcode != 0
    ]


def _on_last_device() -> list[str]:
    """The first call is for a device that is not the current one."""
    device = torch.device("cuda", torch.cuda.device_count() - 1)
    return list(run_case(_CASE, public_forward, device).failures)


def _plain() -> list[str]:
    device = torch.device("cuda", torch.cuda.current_device())
    return list(run_case(_CASE, public_forward, device).failures)


FRESH: dict[str, Callable[[], list[str]]] = {
    "under_capture": _under_capture,
    "in_threads": _in_threads,
    "after_fork": _after_fork,
    "on_last_device": _on_last_device,
}


def _exit_with(check: Callable[[], list[str]]) -> None:
    failures = check()
    for failure in failures:
        print(failure, file=sys.stderr)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    _exit_with(FRESH[sys.argv[1]])
