"""Memory checks with buffers that this module owns: through the C ABI, and through ``out=``.

``out``, and through the C ABI ``lse`` too, are poisoned before the call with a NaN pattern that no arithmetic
produces, and stand between canaries: after the call no poison may be left inside, and no canary may have
changed outside.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from flash_attn3 import _native
from flash_attn3.checks.cases.case import Case
from flash_attn3.checks.cases.options import NATIVE, ODD, WIDE, with_head_dims
from flash_attn3.checks.cases.ragged import quick_ragged
from flash_attn3.checks.data.inputs import Inputs, make_inputs
from flash_attn3.checks.ops.fwd import call
from flash_attn3.checks.outcome import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flash_attn3.checks.ops.fwd import Forward

_POISON = {torch.int16: 0x7FAD, torch.int32: 0x7FADBEEF}
_CANARY = {torch.int16: 0x5AC3, torch.int32: 0x5AC35AC3}
_LAYOUTS = ("contiguous", "bhsd", "padded")
_GUARD = 1 << 16  # elements on each side
_ROW_ELEMENTS = 8  # every stride is a multiple of them; the columns up to there are canaries, too
_SHAPES = ((1, 1, 1, 1, 1), (2, 65, 129, 4, 2), (3, 128, 0, 2, 2), (2, 257, 1000, 6, 2), (1, 1000, 177, 3, 3))
_OTHER = (2, 257, 300, 6, 2)  # the shape of the head dimensions beside 128


def memory_cases() -> tuple[tuple[Case, str], ...]:
    """Return the cases, each with the layout of ``out``: "contiguous", "bhsd" or "padded"."""
    plain = (
        (Case(dtype, causal, *shape, layout="padded"), layout)
        for dtype in ("bf16", "fp16")
        for causal in (False, True)
        for shape in _SHAPES
        for layout in _LAYOUTS
    )
    others = (
        (with_head_dims(Case("bf16", causal, *_OTHER, layout="padded", window=window), pair), layout)
        for pair in (*NATIVE, (72, 72), (160, 120), (40, 8), *ODD[:3], *WIDE[::2])
        for causal, window in ((False, (-1, -1)), (True, (-1, -1)), (False, (70, 30)))
        for layout in _LAYOUTS
    )
    return (*plain, *others)


def out_cases() -> tuple[tuple[Case, str], ...]:
    """Return cases of sequences of different lengths, each with the layout of ``out``."""
    return tuple(
        (case, layout)
        for index, case in enumerate(quick_ragged())
        for layout in (_LAYOUTS[index % 3], _LAYOUTS[(index + 1) % 3])
    )


def run_memory_case(case: Case, layout: str, forward: Forward, device: torch.device) -> Outcome:
    """Run one case through the C ABI; its result must equal that of ``forward`` bit for bit."""
    inputs = make_inputs(case, device)
    out_memory, out_bits = place_out((*inputs.q.shape[:3], inputs.v.shape[3]), layout, device)
    lse_memory = Memory((case.batch, case.heads, case.seqlen_q), torch.int32, device)
    lse_memory.poison(lse_memory.block)
    out = out_bits.view(inputs.q.dtype)
    failures: list[str] = []
    try:
        _native.forward(_arguments(case, inputs, out, lse_memory.block))
        torch.cuda.synchronize(device)
    except _native.NativeError as error:
        failures.append(f"fa3_fwd: {error.status.name}: {error}")
    else:
        lse = lse_memory.block.view(torch.float32)
        public_out, public_lse = call(forward, case, inputs)
        if not torch.equal(bits_of(out), bits_of(public_out)) or not torch.equal(
            bits_of(lse), bits_of(public_lse)
        ):
            failures.append("the result differs from the public call's")
        # The C ABI may write a row up to the next multiple of 16 bytes.
        rows = out_bits.as_strided((*out_bits.shape[:-1], _whole(out_bits.shape[-1])), out_bits.stride())
        failures += find_damage(out_memory, out_bits, "out", may_be_written=rows)
        failures += find_damage(lse_memory, lse_memory.block, "lse")
    return Outcome(
        "memory", f"{case.name}-out_{layout}", {**case.params(), "out_layout": layout}, {}, tuple(failures)
    )


def run_out_case(case: Case, layout: str, forward: Forward, device: torch.device) -> Outcome:
    """Run one case with ``out=``; rows that count must equal those of the call without, bit for bit."""
    name = f"{case.name}-into_{layout}"
    try:
        failures = tuple(_out_failures(case, layout, forward, device))
    except Exception as error:  # noqa: BLE001  whatever it raises, the check failed and the next one runs
        failures = (f"raised {type(error).__name__}: {error}",)
    return Outcome("memory", name, {**case.params(), "out_layout": layout}, {}, failures)


def _out_failures(case: Case, layout: str, forward: Forward, device: torch.device) -> Iterator[str]:
    inputs = make_inputs(case, device)
    expected, expected_lse = call(forward, case, inputs)
    memory, bits = place_out(tuple(expected.shape), layout, device)
    out = bits.view(inputs.q.dtype)
    written, lse = call(forward, case, inputs, out=out)
    if written is not out:
        yield "the call returned another tensor than out"
    found, wanted = (out, lse), (expected, expected_lse)
    if inputs.laid is not None:
        found, wanted = inputs.laid.padded(*found), inputs.laid.padded(*wanted)
    if not all(torch.equal(bits_of(a), bits_of(b)) for a, b in zip(found, wanted, strict=True)):
        yield "the result differs from the call's without out"
    if inputs.laid is not None:
        # Rows that no sequence uses are unspecified: the call need not have written them. That the others
        # were is what the comparison says.
        bits.fill_(0)
    yield from find_damage(memory, bits, "out")


class Memory:
    """An integer buffer full of canaries, and the block in its middle that may be written."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
        self.dtype = dtype
        size = torch.Size(shape).numel()
        self.buffer = torch.full((2 * _GUARD + size,), _CANARY[dtype], dtype=dtype, device=device)
        self.block = self.buffer[_GUARD : _GUARD + size].view(shape)

    def poison(self, view: Tensor) -> None:
        """Fill a view of the block with what no arithmetic produces."""
        view.fill_(_POISON[self.dtype])


def place_out(shape: tuple[int, ...], layout: str, device: torch.device) -> tuple[Memory, Tensor]:
    """Return memory for an output of a shape, and the poisoned view that is to be written.

    The view is as the fastest path takes it: rows of any head_dim_v begin at multiples of 16 bytes.
    """
    *leading, seqlen, heads, head_dim_v = shape
    columns = _whole(head_dim_v)
    shapes = {
        "contiguous": (*leading, seqlen, heads, columns),
        "bhsd": (*leading, heads, seqlen, columns),
        "padded": (*leading, seqlen + 5, heads + 1, columns + _ROW_ELEMENTS),
    }
    memory = Memory(shapes[layout], torch.int16, device)
    bits = memory.block.transpose(-2, -3) if layout == "bhsd" else memory.block
    bits = bits[..., :seqlen, :heads, :head_dim_v]
    memory.poison(bits)
    return memory, bits


def _whole(columns: int) -> int:
    return -(-columns // _ROW_ELEMENTS) * _ROW_ELEMENTS


def find_damage(
    memory: Memory, written: Tensor, name: str, may_be_written: Tensor | None = None
) -> Iterator[str]:
    """Yield what is wrong with a buffer of which only ``written`` should have been written, all of it."""
    poison = int((written == _POISON[memory.dtype]).sum())
    if poison:
        yield f"{name}: {poison} of {written.numel()} elements were never written"
    for view in (written, may_be_written):
        if view is not None:
            view.fill_(_CANARY[memory.dtype])
    touched = (memory.buffer != _CANARY[memory.dtype]).nonzero()
    if touched.numel():
        first = int(touched[0]) - _GUARD
        yield f"{name}: {touched.shape[0]} elements outside were written, the first at {first}"


def _arguments(case: Case, inputs: Inputs, out: Tensor, lse: Tensor) -> _native.FwdArgs:
    device = inputs.q.device
    return _native.FwdArgs(
        device=device.index or 0,
        dtype=_native.Dtype[case.dtype.upper()],
        causal=case.causal,
        softmax_scale=case.scale,
        sm_margin=0,
        stream=torch.cuda.current_stream(device).cuda_stream,
        q=_view(inputs.q),
        k=_view(inputs.k),
        v=_view(inputs.v),
        out=_view(out),
        lse=lse.data_ptr(),
        window_left=case.window[0],
        window_right=case.window[1],
        batch=case.batch,
        max_seqlen_q=case.seqlen_q,
        max_seqlen_k=case.seqlen_k,
    )


def _view(tensor: Tensor) -> _native.TensorView:
    return _native.TensorView(tensor.data_ptr(), tuple(tensor.shape), tensor.stride())


def bits_of(tensor: Tensor) -> Tensor:
    """Return the bits of a tensor, in which NaN is equal to itself."""
    return tensor.contiguous().view(torch.int16 if tensor.element_size() == 2 else torch.int32)
