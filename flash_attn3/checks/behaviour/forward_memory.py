"""Memory checks of attention forward: through the C ABI, and through ``out=``."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch

from flash_attn3 import _native
from flash_attn3.checks.behaviour.canary import (
    Memory,
    MemoryCheck,
    OutBuffer,
    bits_of,
    find_damage,
    find_wrong_writes,
)
from flash_attn3.checks.cases.case import AttentionCase
from flash_attn3.checks.cases.options import NATIVE, ODD, WIDE, with_head_dims
from flash_attn3.checks.cases.ragged import quick_ragged
from flash_attn3.checks.data.call import call
from flash_attn3.checks.data.forward_abi import ROW_ELEMENTS, forward_arguments, take_workspace
from flash_attn3.checks.data.inputs import make_inputs
from flash_attn3.checks.outcome import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flash_attn3.checks.data.call import Forward

_LAYOUTS = ("contiguous", "bhsd", "padded")
_SHAPES = ((1, 1, 1, 1, 1), (2, 65, 129, 4, 2), (3, 128, 0, 2, 2), (2, 257, 1000, 6, 2), (1, 1000, 177, 3, 3))
_OTHER = (2, 257, 300, 6, 2)  # the shape for head dimensions other than 128


def abi_checks() -> tuple[MemoryCheck[AttentionCase], ...]:
    """Return the checks through the C ABI."""
    return tuple(
        MemoryCheck(f"{case.name}-out_{layout}", case, partial(run_memory_case, case, layout))
        for case, layout in memory_cases()
    )


def out_checks() -> tuple[MemoryCheck[AttentionCase], ...]:
    """Return the checks through ``out=``."""
    return tuple(
        MemoryCheck(f"{case.name}-into_{layout}", case, partial(run_out_case, case, layout))
        for case, layout in out_cases()
    )


def memory_cases() -> tuple[tuple[AttentionCase, str], ...]:
    """Return the cases for the C ABI, each with the layout of ``out``: "contiguous", "bhsd" or "padded"."""
    plain = (
        (AttentionCase(dtype, causal, *shape, layout="padded"), layout)
        for dtype in ("bf16", "fp16")
        for causal in (False, True)
        for shape in _SHAPES
        for layout in _LAYOUTS
    )
    others = (
        (with_head_dims(AttentionCase("bf16", causal, *_OTHER, layout="padded", window=window), pair), layout)
        for pair in (*NATIVE, (72, 72), (160, 120), (40, 8), *ODD[:3], *WIDE[::2])
        for causal, window in ((False, (-1, -1)), (True, (-1, -1)), (False, (70, 30)))
        for layout in _LAYOUTS
    )
    return (*plain, *others)


def out_cases() -> tuple[tuple[AttentionCase, str], ...]:
    """Return the cases for ``out=``, of sequences of different lengths, each with the layout of ``out``."""
    return tuple(
        (case, layout)
        for index, case in enumerate(quick_ragged())
        for layout in (_LAYOUTS[index % 3], _LAYOUTS[(index + 1) % 3])
    )


def run_memory_case(case: AttentionCase, layout: str, forward: Forward, device: torch.device) -> Outcome:
    """Run one case through the C ABI; its result must equal that of ``forward`` bit for bit."""
    inputs = make_inputs(case, device)
    buffer = place_out((*inputs.q.shape[:3], inputs.v.shape[3]), layout, device)
    lse_memory = Memory((case.batch, case.heads, case.seqlen_q), torch.int32, device)
    lse_memory.poison(lse_memory.block)
    out = buffer.bits.view(inputs.q.dtype)
    lse = lse_memory.block.view(torch.float32)
    stream = torch.cuda.current_stream(device).cuda_stream
    failures: list[str] = []
    try:
        arguments = forward_arguments(case, inputs, out, lse, stream=stream)
        workspace = take_workspace(arguments, out)
        _native.forward(arguments)
        torch.cuda.synchronize(device)
        del workspace
    except _native.NativeError as error:
        failures.append(f"fa3_fwd: {error.status.name}: {error}")
    else:
        public = call(forward, case, inputs)
        if not all(torch.equal(bits_of(a), bits_of(b)) for a, b in zip((out, lse), public, strict=True)):
            failures.append("the result differs from the public call's")
        # The C ABI may write a row up to the next multiple of 16 bytes.
        rows = buffer.bits.as_strided(
            (*buffer.bits.shape[:-1], _whole(buffer.bits.shape[-1])), buffer.bits.stride()
        )
        failures += find_damage(buffer.memory, buffer.bits, "out", may_be_written=rows)
        failures += find_damage(lse_memory, lse_memory.block, "lse")
    return _outcome(f"{case.name}-out_{layout}", case, layout, tuple(failures))


def run_out_case(case: AttentionCase, layout: str, forward: Forward, device: torch.device) -> Outcome:
    """Run one case with ``out=``; used rows must equal those of the call without, bit for bit."""
    try:
        failures = tuple(_out_failures(case, layout, forward, device))
    except Exception as error:  # noqa: BLE001  whatever it raises, the check failed and the next one runs
        failures = (f"raised {type(error).__name__}: {error}",)
    return _outcome(f"{case.name}-into_{layout}", case, layout, failures)


def _outcome(name: str, case: AttentionCase, layout: str, failures: tuple[str, ...]) -> Outcome:
    return Outcome("memory", name, {**case.params(), "out_layout": layout}, {}, failures)


def _out_failures(case: AttentionCase, layout: str, forward: Forward, device: torch.device) -> Iterator[str]:
    inputs = make_inputs(case, device)
    expected = call(forward, case, inputs)
    yield from find_wrong_writes(
        lambda out: call(forward, case, inputs, out=out),
        expected,
        place_out(tuple(expected[0].shape), layout, device),
        None if inputs.sequences is None else inputs.sequences.padded,
    )


def place_out(shape: tuple[int, ...], layout: str, device: torch.device) -> OutBuffer:
    """Return a poisoned buffer for an output of two-byte elements.

    Rows of any head_dim_v start at multiples of 16 bytes, as the kernels write them without a copy.
    """
    *leading, seqlen, heads, head_dim_v = shape
    columns = _whole(head_dim_v)
    shapes = {
        "contiguous": (*leading, seqlen, heads, columns),
        "bhsd": (*leading, heads, seqlen, columns),
        "padded": (*leading, seqlen + 5, heads + 1, columns + ROW_ELEMENTS),
    }
    memory = Memory(shapes[layout], torch.int16, device)
    bits = memory.block.transpose(-2, -3) if layout == "bhsd" else memory.block
    bits = bits[..., :seqlen, :heads, :head_dim_v]
    memory.poison(bits)
    return OutBuffer(memory, bits)


def _whole(columns: int) -> int:
    return -(-columns // ROW_ELEMENTS) * ROW_ELEMENTS
