"""First use of the forward kernels in a process: under graph capture, from many threads, after a fork.

Each check must run in a process of its own, see ``fresh_process``. It returns a sentence for every failure.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import sys
import threading

import torch

from flash_attn3 import _native
from flash_attn3.checks.cases.case import AttentionCase
from flash_attn3.checks.data.call import call, public_forward
from flash_attn3.checks.data.inputs import make_inputs
from flash_attn3.checks.truth.forward import find_failures

_CASE = AttentionCase("bf16", True, 2, 300, 400, 4, 2)
_CHILD_TIMEOUT = 90  # seconds


def under_capture() -> list[str]:
    """Capture the first call in a graph."""
    device = torch.device("cuda", torch.cuda.current_device())
    inputs = make_inputs(_CASE, device)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out, lse = call(public_forward, _CASE, inputs)
    graph.replay()
    torch.cuda.synchronize()
    expected_out, expected_lse = call(public_forward, _CASE, inputs)
    if not torch.equal(out, expected_out) or not torch.equal(lse, expected_lse):
        return ["a call captured as the first one replays to another result"]
    return plain()


def in_threads() -> list[str]:
    """Start eight threads that call at once, on streams of their own."""
    device = torch.device("cuda", torch.cuda.current_device())
    failures: list[str] = []
    start = threading.Barrier(8)

    def work(thread: int) -> None:
        start.wait()
        case = AttentionCase(("bf16", "fp16")[thread % 2], thread % 4 < 2, 2, 300, 400, 4, 2)
        try:
            with torch.cuda.device(device), torch.cuda.stream(torch.cuda.Stream(device)):
                found = find_failures(case, public_forward, device)
        except Exception as error:  # noqa: BLE001  an exception in a thread would be lost
            found = [f"raised {type(error).__name__}: {error}"]
        failures.extend(f"thread {thread}: {text}" for text in found)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failures


def after_fork() -> list[str]:
    """Fork after the import, the list of kernels and a refused call; only the children use the GPU."""
    _native.kernels()
    cpu = torch.zeros(1, 1, 1, 128, dtype=torch.bfloat16)
    with contextlib.suppress(ValueError):
        public_forward(cpu, cpu, cpu, None, False)
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=_run_child) for _ in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join(_CHILD_TIMEOUT)
    return [
        f"child {index} exited {child.exitcode}"
        for index, child in enumerate(children)
        if child.exitcode != 0
    ]


def _run_child() -> None:
    failures = plain()
    for failure in failures:
        print(failure, file=sys.stderr)
    sys.exit(1 if failures else 0)


def on_last_device() -> list[str]:
    """Call on a device that is not the current one."""
    return find_failures(_CASE, public_forward, torch.device("cuda", torch.cuda.device_count() - 1))


def plain() -> list[str]:
    """Call once on the current device."""
    return find_failures(_CASE, public_forward, torch.device("cuda", torch.cuda.current_device()))
