"""Execution of attention forward: repetition, streams, graphs, threads, devices, memory use.

Each check yields a sentence for every failure.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from flash_attn3.checks.cases.case import AttentionCase
from flash_attn3.checks.data.call import call
from flash_attn3.checks.data.inputs import AttentionInputs, make_inputs
from flash_attn3.checks.truth.forward import find_failures

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flash_attn3.checks.data.call import Forward

REPEATS = 20
CASES = (
    AttentionCase("bf16", False, 2, 1000, 1000, 8, 2),
    AttentionCase("fp16", True, 3, 513, 777, 6, 6),
    AttentionCase("bf16", True, 1, 4096, 4096, 16, 16),
    AttentionCase("fp16", False, 4, 1, 3000, 8, 1),
)


def same_results(left: tuple[Tensor, ...], right: tuple[Tensor, ...]) -> bool:
    """Return whether two results are equal; NaN differs from itself."""
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def _busy(milliseconds: float) -> None:
    """Keep the current stream busy for about ``milliseconds``."""
    torch.cuda._sleep(int(milliseconds * 1.5e6))  # noqa: SLF001  the only delay that torch offers; cycles


def repeats_equal(forward: Forward, device: torch.device) -> Iterator[str]:
    """Every repetition of a call gives the same bits."""
    for case in CASES:
        inputs = make_inputs(case, device)
        first = call(forward, case, inputs)
        differ = sum(not same_results(first, call(forward, case, inputs)) for _ in range(REPEATS))
        if differ:
            yield f"{case.name}: {differ} of {REPEATS} repeats differ from the first run"


def repeats_equal_beside_work(forward: Forward, device: torch.device) -> Iterator[str]:
    """Repetitions are equal also while another stream, which changes the order of thread blocks, is busy."""
    other = torch.cuda.Stream(device)
    matrix = torch.randn(4096, 4096, device=device, dtype=torch.bfloat16)
    other.wait_stream(torch.cuda.current_stream(device))
    for case in CASES:
        inputs = make_inputs(case, device)
        first = call(forward, case, inputs)
        results = []
        for _ in range(REPEATS):
            with torch.cuda.stream(other):
                torch.mm(matrix, matrix)
            results.append(call(forward, case, inputs))
        differ = sum(not same_results(first, result) for result in results)
        if differ:
            yield f"{case.name}: {differ} of {REPEATS} repeats beside other work differ from the first run"
    torch.cuda.current_stream(device).wait_stream(other)


def many_streams(forward: Forward, device: torch.device) -> Iterator[str]:
    """Calls on several streams at once give the same bits as the call alone."""
    inputs = [make_inputs(case, device) for case in CASES]
    alone = [call(forward, case, given) for case, given in zip(CASES, inputs, strict=True)]
    torch.cuda.synchronize(device)
    streams = [torch.cuda.Stream(device) for _ in range(8)]
    results = []
    for turn, stream in enumerate(streams * 4):
        index = turn % len(CASES)
        with torch.cuda.stream(stream):
            results.append((index, call(forward, CASES[index], inputs[index])))
    torch.cuda.synchronize(device)
    wrong = sum(not same_results(alone[index], result) for index, result in results)
    if wrong:
        yield f"{wrong} of {len(results)} calls on several streams at once differ from the same call alone"


def stream_order(forward: Forward, device: torch.device) -> Iterator[str]:
    """The call runs after the earlier work of its stream and before the later work."""
    case = CASES[0]
    inputs = make_inputs(case, device)
    expected = call(forward, case, inputs)
    late = AttentionInputs(torch.zeros_like(inputs.q), torch.zeros_like(inputs.k), torch.zeros_like(inputs.v))
    torch.cuda.synchronize(device)
    with torch.cuda.stream(torch.cuda.Stream(device)):
        _busy(20)
        for target, source in ((late.q, inputs.q), (late.k, inputs.k), (late.v, inputs.v)):
            target.copy_(source)
        result = call(forward, case, late)
        copies = tuple(tensor.clone() for tensor in result)
        late.q.zero_()
    torch.cuda.synchronize(device)
    if not same_results(expected, copies):
        yield "the call did not run in the order of its stream"


def graph_replay(forward: Forward, device: torch.device) -> Iterator[str]:
    """A captured call reads its inputs on every replay, and two graphs may be replayed at once."""
    case = CASES[1]
    inputs = make_inputs(case, device)
    call(forward, case, inputs)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = call(forward, case, inputs)
    for turn in range(5):
        inputs.q.copy_(make_inputs(replace(case, seed=turn), device).q)
        graph.replay()
        graph.replay()
        torch.cuda.synchronize(device)
        if not same_results(captured, call(forward, case, inputs)):
            yield f"replay {turn} with new values differs from a call with the same values"
    other = torch.cuda.CUDAGraph()
    with torch.cuda.graph(other):
        beside = call(forward, case, inputs)
    expected = call(forward, case, inputs)
    for _ in range(REPEATS):
        with torch.cuda.stream(torch.cuda.Stream(device)):
            graph.replay()
        with torch.cuda.stream(torch.cuda.Stream(device)):
            other.replay()
        torch.cuda.synchronize(device)
        if not same_results(expected, captured) or not same_results(expected, beside):
            yield "two graphs replayed at once disturb each other"
            return


def many_threads(forward: Forward, device: torch.device) -> Iterator[str]:
    """Calls of several threads at once give the same bits as the call alone."""
    inputs = [make_inputs(case, device) for case in CASES]
    alone = [call(forward, case, given) for case, given in zip(CASES, inputs, strict=True)]
    torch.cuda.synchronize(device)
    failures: list[str] = []

    def work(thread: int) -> None:
        index = thread % len(CASES)
        try:
            with torch.cuda.device(device), torch.cuda.stream(torch.cuda.Stream(device)):
                results = [call(forward, CASES[index], inputs[index]) for _ in range(10)]
                torch.cuda.current_stream(device).synchronize()
            wrong = sum(not same_results(alone[index], result) for result in results)
            if wrong:
                failures.append(f"thread {thread}: {wrong} of 10 calls differ from the same call alone")
        except Exception as error:  # noqa: BLE001  an exception in a thread would be lost
            failures.append(f"thread {thread} raised {type(error).__name__}: {error}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    yield from failures


def every_device(forward: Forward, device: torch.device) -> Iterator[str]:
    """The call runs on the device of its tensors, not on the current one."""
    for index in range(torch.cuda.device_count()):
        for case in CASES[:2]:
            failures = find_failures(case, forward, torch.device("cuda", index))
            yield from (f"cuda:{index} while cuda:{device.index} is current: {text}" for text in failures)


def no_leak(forward: Forward, device: torch.device) -> Iterator[str]:
    """A thousand calls leak no device memory, neither torch's nor the driver's."""
    case = AttentionCase("bf16", True, 1, 128, 128, 2, 2)
    inputs = make_inputs(case, device)
    for _ in range(10):
        call(forward, case, inputs)
    torch.cuda.synchronize(device)
    torch_before, free_before = torch.cuda.memory_allocated(device), torch.cuda.mem_get_info(device)[0]
    for _ in range(1000):
        call(forward, case, inputs)
    torch.cuda.synchronize(device)
    torch_grown = torch.cuda.memory_allocated(device) - torch_before
    if torch_grown:
        yield f"torch's allocator holds {torch_grown} bytes more after 1000 calls"
    # Other programs may use the device, too: less growth than this proves nothing.
    driver_grown = free_before - torch.cuda.mem_get_info(device)[0]
    if driver_grown > 64 << 20:
        yield f"the device has {driver_grown} bytes less after 1000 calls"
