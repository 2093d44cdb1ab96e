"""What a call must do beside computing right: streams, graphs, threads, devices, repetition, errors.

Each check returns sentences for what went wrong; none means it passed.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from flash_attn3 import flash_attn_func, flash_attn_qkvpacked_func
from flash_attn3.checks.behaviour.invariance import (
    rows_beside_outrunning_ones,
    varying_batches,
    varying_batches_of_outrunning_rows,
    varying_batches_of_wide_values,
)
from flash_attn3.checks.cases.case import Case
from flash_attn3.checks.data.inputs import Inputs, make_inputs
from flash_attn3.checks.ops.fwd import call, run_case
from flash_attn3.checks.outcome import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flash_attn3.checks.ops.fwd import Forward

    Check = Callable[[Forward, torch.device], Iterator[str]]

REPEATS = 20
_CASES = (
    Case("bf16", False, 2, 1000, 1000, 8, 2),
    Case("fp16", True, 3, 513, 777, 6, 6),
    Case("bf16", True, 1, 4096, 4096, 16, 16),
    Case("fp16", False, 4, 1, 3000, 8, 1),
)


def run_behaviour(name: str, forward: Forward, device: torch.device) -> Outcome:
    """Run one check of ``BEHAVIOURS`` or ``MIXED_BEHAVIOURS``. An exception is a failure of the check."""
    try:
        failures = tuple({**BEHAVIOURS, **MIXED_BEHAVIOURS}[name](forward, device))
        torch.cuda.synchronize(device)
    except Exception as error:  # noqa: BLE001  whatever it raises, the check failed and the next one runs
        failures = (f"raised {type(error).__name__}: {error}",)
    return Outcome("behaviour", name, {}, {}, failures)


def _call(forward: Forward, case: Case, inputs: Inputs) -> tuple[Tensor, Tensor]:
    return forward(inputs.q, inputs.k, inputs.v, case.softmax_scale, case.causal)


def _same(left: tuple[Tensor, ...], right: tuple[Tensor, ...]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def _busy(milliseconds: float) -> None:
    """Keep the current stream busy for about this long."""
    torch.cuda._sleep(int(milliseconds * 1.5e6))  # noqa: SLF001  the only delay that torch offers; cycles


def _repeats_equal(forward: Forward, device: torch.device) -> Iterator[str]:
    for case in _CASES:
        inputs = make_inputs(case, device)
        first = _call(forward, case, inputs)
        differ = sum(not _same(first, _call(forward, case, inputs)) for _ in range(REPEATS))
        if differ:
            yield f"{case.name}: {differ} of {REPEATS} repeats differ from the first run"


def _repeats_equal_beside_work(forward: Forward, device: torch.device) -> Iterator[str]:
    """Thread blocks arrive in another order when another stream holds part of the device."""
    other = torch.cuda.Stream(device)
    matrix = torch.randn(4096, 4096, device=device, dtype=torch.bfloat16)
    other.wait_stream(torch.cuda.current_stream(device))
    for case in _CASES:
        inputs = make_inputs(case, device)
        first = _call(forward, case, inputs)
        results = []
        for _ in range(REPEATS):
            with torch.cuda.stream(other):
                torch.mm(matrix, matrix)
            results.append(_call(forward, case, inputs))
        differ = sum(not _same(first, result) for result in results)
        if differ:
            yield f"{case.name}: {differ} of {REPEATS} repeats beside other work differ from the first run"
    torch.cuda.current_stream(device).wait_stream(other)


def _many_streams(forward: Forward, device: torch.device) -> Iterator[str]:
    inputs = [make_inputs(case, device) for case in _CASES]
    alone = [_call(forward, case, given) for case, given in zip(_CASES, inputs, strict=True)]
    torch.cuda.synchronize(device)
    streams = [torch.cuda.Stream(device) for _ in range(8)]
    results = []
    for turn, stream in enumerate(streams * 4):
        index = turn % len(_CASES)
        with torch.cuda.stream(stream):
            results.append((index, _call(forward, _CASES[index], inputs[index])))
    torch.cuda.synchronize(device)
    wrong = sum(not _same(alone[index], result) for index, result in results)
    if wrong:
        yield f"{wrong} of {len(results)} calls on several streams at once differ from the same call alone"


def _stream_order(forward: Forward, device: torch.device) -> Iterator[str]:
    """The call waits for what its own stream did before it, and what comes after waits for the call."""
    case = _CASES[0]
    inputs = make_inputs(case, device)
    expected = _call(forward, case, inputs)
    late = Inputs(torch.zeros_like(inputs.q), torch.zeros_like(inputs.k), torch.zeros_like(inputs.v))
    torch.cuda.synchronize(device)
    with torch.cuda.stream(torch.cuda.Stream(device)):
        _busy(20)
        for target, source in ((late.q, inputs.q), (late.k, inputs.k), (late.v, inputs.v)):
            target.copy_(source)
        result = _call(forward, case, late)
        copies = tuple(tensor.clone() for tensor in result)
        late.q.zero_()
    torch.cuda.synchronize(device)
    if not _same(expected, copies):
        yield "the call did not run in the order of its stream"


def _graph_replay(forward: Forward, device: torch.device) -> Iterator[str]:
    """A captured call reads its inputs anew on every replay, and two graphs may be replayed at once."""
    case = _CASES[1]
    inputs = make_inputs(case, device)
    _call(forward, case, inputs)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = _call(forward, case, inputs)
    for turn in range(5):
        inputs.q.copy_(make_inputs(replace(case, seed=turn), device).q)
        graph.replay()
        graph.replay()
        torch.cuda.synchronize(device)
        if not _same(captured, _call(forward, case, inputs)):
            yield f"replay {turn} with new values differs from a call with the same values"
    other = torch.cuda.CUDAGraph()
    with torch.cuda.graph(other):
        beside = _call(forward, case, inputs)
    expected = _call(forward, case, inputs)
    for _ in range(REPEATS):
        with torch.cuda.stream(torch.cuda.Stream(device)):
            graph.replay()
        with torch.cuda.stream(torch.cuda.Stream(device)):
            other.replay()
        torch.cuda.synchronize(device)
        if not _same(expected, captured) or not _same(expected, beside):
            yield "two graphs replayed at once disturb each other"
            return


def _many_threads(forward: Forward, device: torch.device) -> Iterator[str]:
    inputs = [make_inputs(case, device) for case in _CASES]
    alone = [_call(forward, case, given) for case, given in zip(_CASES, inputs, strict=True)]
    torch.cuda.synchronize(device)
    failures: list[str] = []

    def work(thread: int) -> None:
        index = thread % len(_CASES)
        try:
            with torch.cuda.device(device), torch.cuda.stream(torch.cuda.Stream(device)):
                results = [_call(forward, _CASES[index], inputs[index]) for _ in range(10)]
                torch.cuda.current_stream(device).synchronize()
            wrong = sum(not _same(alone[index], result) for result in results)
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


def _every_device(forward: Forward, device: torch.device) -> Iterator[str]:
    """The tensors decide the device, not the current one."""
    for index in range(torch.cuda.device_count()):
        for case in _CASES[:2]:
            outcome = run_case(case, forward, torch.device("cuda", index))
            yield from (
                f"cuda:{index} while cuda:{device.index} is current: {text}" for text in outcome.failures
            )


def _sm_margin(_forward: Forward, device: torch.device) -> Iterator[str]:
    for case in _CASES:
        inputs = make_inputs(case, device)
        results = [
            flash_attn_func(
                inputs.q, inputs.k, inputs.v, causal=case.causal, sm_margin=margin, return_attn_probs=True
            )
            for margin in (0, 1, 17)
        ]
        if not all(_same(tuple(results[0]), tuple(result)) for result in results):
            yield f"{case.name}: sm_margin changes the result"


def _errors_then_success(forward: Forward, device: torch.device) -> Iterator[str]:
    """A refused call raises the right error, leaves no CUDA error behind, and the next call is right."""
    case = _CASES[0]
    inputs = make_inputs(case, device)
    q, k, v = inputs.q, inputs.k, inputs.v
    expected = _call(forward, case, inputs)
    three_heads = k[:, :, :1].expand(-1, -1, 3, -1)
    refused: tuple[tuple[str, tuple[Tensor, Tensor, Tensor], type[Exception]], ...] = (
        ("float32", (q.float(), k.float(), v.float()), TypeError),
        ("mixed dtypes", (q, k.half(), v), TypeError),
        ("rank 3", (q[0], k, v), ValueError),
        ("k and v of different lengths", (q, k, v[:, 1:]), ValueError),
        ("heads that do not divide", (q, three_heads, three_heads), ValueError),
        ("head_dim 384", (_wide(q), _wide(k), _wide(v)), NotImplementedError),
        ("k on the CPU", (q, k.cpu(), v), ValueError),
    )
    for name, tensors, wanted in refused:
        error = _error_of(forward, tensors)
        if not isinstance(error, wanted):
            yield f"{name}: should raise {wanted.__name__}; got {error!r}"
    if not _same(expected, _call(forward, case, inputs)):
        yield "a call after refused calls gives another result"


def _wide(tensor: Tensor) -> Tensor:
    return tensor.repeat(1, 1, 1, 3)


def _error_of(forward: Forward, tensors: tuple[Tensor, Tensor, Tensor]) -> Exception | None:
    try:
        forward(*tensors, None, False)
    except Exception as error:  # noqa: BLE001  the wrong error is what this looks for
        return error
    return None


def _backward_refused(_forward: Forward, device: torch.device) -> Iterator[str]:
    inputs = make_inputs(_CASES[1], device)
    q = inputs.q.clone().requires_grad_()
    out = flash_attn_func(q, inputs.k, inputs.v)
    plain = flash_attn_func(inputs.q, inputs.k, inputs.v)
    if not (isinstance(out, Tensor) and isinstance(plain, Tensor) and torch.equal(out, plain)):
        yield "a forward call on tensors that require a gradient gives another result"
        return
    try:
        out.sum().backward()
    except NotImplementedError:
        return
    yield "the backward pass did not raise NotImplementedError"


def _no_leak(forward: Forward, device: torch.device) -> Iterator[str]:
    """A thousand calls take no device memory, neither torch's nor the driver's."""
    case = Case("bf16", True, 1, 128, 128, 2, 2)
    inputs = make_inputs(case, device)
    for _ in range(10):
        _call(forward, case, inputs)
    torch.cuda.synchronize(device)
    torch_before, free_before = torch.cuda.memory_allocated(device), torch.cuda.mem_get_info(device)[0]
    for _ in range(1000):
        _call(forward, case, inputs)
    torch.cuda.synchronize(device)
    torch_grown = torch.cuda.memory_allocated(device) - torch_before
    if torch_grown:
        yield f"torch's allocator holds {torch_grown} bytes more after 1000 calls"
    # Other programs may use the device, too: only a growth that such calls could cause is a finding.
    driver_grown = free_before - torch.cuda.mem_get_info(device)[0]
    if driver_grown > 64 << 20:
        yield f"the device has {driver_grown} bytes less after 1000 calls"


def _out_refused(forward: Forward, device: torch.device) -> Iterator[str]:
    """What cannot be written to is refused, and what is refused is not written to."""
    case = _CASES[0]
    inputs = make_inputs(case, device)
    q = inputs.q
    memory = q.new_zeros((*q.shape[:-1], 2 * q.shape[-1] + 8))
    refused: tuple[tuple[str, Tensor, tuple[type[Exception], ...]], ...] = (
        ("a last stride of 2", memory[..., : 2 * q.shape[-1] : 2], (RuntimeError, ValueError)),
        ("2 bytes off alignment", memory[..., 1 : 1 + q.shape[-1]], (RuntimeError, ValueError)),
        ("a wrong shape", memory[:, 1:, :, : q.shape[-1]], (ValueError,)),
        ("a wrong dtype", torch.zeros_like(q, dtype=torch.float32), (TypeError,)),
        ("the CPU", torch.zeros(q.shape, dtype=q.dtype), (ValueError,)),
    )
    for name, out, wanted in refused:
        error: Exception | None = None
        try:
            call(forward, case, inputs, out=out)
        except Exception as caught:  # noqa: BLE001  the wrong error is what this looks for
            error = caught
        if not isinstance(error, wanted) or "out" not in str(error):
            yield f"out with {name}: should be refused by name; got {error!r}"
    if bool(memory.any()):
        yield "a refused out was written to"


def _one_tensor(forward: Forward, device: torch.device) -> Iterator[str]:
    """Attend to q, k and v inside one tensor, which begins inside another whose rows have gaps."""
    whole = torch.randn(3, 300, 3, 5, 136, device=device, dtype=torch.bfloat16)
    stacked, joined = whole[1:, 7:, :, 1:, 8:], whole[1:, 7:, 1, :4, 8:]
    parts = {None: stacked.unbind(2), 2: joined.split((2, 1, 1), 2)}
    for num_heads_q, qkv in ((None, stacked), (2, joined)):
        for causal in (False, True):
            packed = flash_attn_qkvpacked_func(
                qkv, causal=causal, num_heads_q=num_heads_q, return_attn_probs=True
            )
            if not _same(tuple(packed), forward(*parts[num_heads_q], None, causal)):
                yield f"num_heads_q={num_heads_q}, causal={causal}: differs from the call on its three views"


BEHAVIOURS: dict[str, Check] = {
    "repeats_equal": _repeats_equal,
    "repeats_equal_beside_work": _repeats_equal_beside_work,
    "many_streams": _many_streams,
    "stream_order": _stream_order,
    "graph_replay": _graph_replay,
    "many_threads": _many_threads,
    "every_device": _every_device,
    "one_tensor": _one_tensor,
    "sm_margin": _sm_margin,
    "errors_then_success": _errors_then_success,
    "backward_refused": _backward_refused,
    "out_refused": _out_refused,
    "varying_batches": varying_batches,
    "varying_batches_of_outrunning_rows": varying_batches_of_outrunning_rows,
    "rows_beside_outrunning_ones": rows_beside_outrunning_ones,
    "no_leak": _no_leak,
}
# Those for which one kind of kernels need not do: what it leaves out, another one takes.
MIXED_BEHAVIOURS: dict[str, Check] = {"varying_batches_of_wide_values": varying_batches_of_wide_values}
