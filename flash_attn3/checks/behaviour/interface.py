"""Interface of attention forward: equivalent calls, and calls that must be refused.

Each check yields a sentence for every failure.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from flash_attn3 import flash_attn_func, flash_attn_qkvpacked_func
from flash_attn3.checks.behaviour.execution import CASES, same_results
from flash_attn3.checks.data.call import call
from flash_attn3.checks.data.inputs import make_inputs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flash_attn3.checks.behaviour.canary import Results
    from flash_attn3.checks.data.call import Forward


def one_tensor(forward: Forward, device: torch.device) -> Iterator[str]:
    """q, k and v as views of one tensor, itself a view with gaps, give the result of the three views."""
    whole = torch.randn(3, 300, 3, 5, 136, device=device, dtype=torch.bfloat16)
    stacked, joined = whole[1:, 7:, :, 1:, 8:], whole[1:, 7:, 1, :4, 8:]
    parts = {None: stacked.unbind(2), 2: joined.split((2, 1, 1), 2)}
    for num_heads_q, qkv in ((None, stacked), (2, joined)):
        for causal in (False, True):
            packed = flash_attn_qkvpacked_func(
                qkv, causal=causal, num_heads_q=num_heads_q, return_attn_probs=True
            )
            if not same_results(tuple(packed), forward(*parts[num_heads_q], None, causal)):
                yield f"num_heads_q={num_heads_q}, causal={causal}: differs from the call on its three views"


def sm_margin(_forward: Forward, device: torch.device) -> Iterator[str]:
    """``sm_margin`` changes no bit of the result."""
    for case in CASES:
        inputs = make_inputs(case, device)
        results = [
            flash_attn_func(
                inputs.q, inputs.k, inputs.v, causal=case.causal, sm_margin=margin, return_attn_probs=True
            )
            for margin in (0, 1, 17)
        ]
        if not all(same_results(tuple(results[0]), tuple(result)) for result in results):
            yield f"{case.name}: sm_margin changes the result"


# Large enough that it may not be copied, and a row of it.
_CACHE = (600, 64, 2, 128)  # pages, page_size, heads, head_dim
_CACHE_ROW = _CACHE[2] * _CACHE[3]


def _slices_of_larger(count: int, distance: int, device: torch.device) -> Tensor:
    """Return a random cache of ``count`` pages or slots whose starts are ``distance`` elements apart."""
    rows = _CACHE[0] * _CACHE[1] // count
    memory = torch.randn(count * distance + 8, device=device, dtype=torch.bfloat16)
    return memory.as_strided((count, rows, *_CACHE[2:]), (distance, _CACHE_ROW, _CACHE[3], 1))


def caches_in_place(forward: Forward, device: torch.device) -> Iterator[str]:
    """A cache of slices of larger pages, or slots, gives the bits of a contiguous one and is not copied."""
    batch, pages, page_size = 6, *_CACHE[:2]
    q = torch.randn(batch, 3, 8, _CACHE[3], device=device, dtype=torch.bfloat16)
    used = torch.tensor([1, 500, 64, 6400, 6399, 0], device=device, dtype=torch.int32)
    order = torch.randperm(pages, device=device, dtype=torch.int32).view(batch, -1)
    for count, options in (
        (pages, {"seqused_k": used, "page_table": order}),
        (batch, {"seqused_k": used}),
    ):
        whole = _CACHE[0] * _CACHE[1] // count * _CACHE_ROW
        for extra_k, extra_v in ((8, 8), (0, _CACHE_ROW), (24, 3 * whole + 64)):
            k, v = (_slices_of_larger(count, whole + extra, device) for extra in (extra_k, extra_v))
            whole_k, whole_v = k.contiguous(), v.contiguous()
            plain, usual = _with_peak(partial(forward, q, whole_k, whole_v, None, True, **options), device)
            sliced, taken = _with_peak(partial(forward, q, k, v, None, True, **options), device)
            where = f"{count} slices {whole + extra_k} and {whole + extra_v} elements apart, {page_size=}"
            if not same_results(tuple(plain), tuple(sliced)):
                yield f"{where}: differs from the call on a contiguous cache"
            if taken > usual + (1 << 20):
                yield f"{where}: takes {taken} bytes, {usual} usually; it should not copy the cache"


def _with_peak(run: Callable[[], Results], device: torch.device) -> tuple[Results, int]:
    """Return the results of a call and the bytes that it took at its peak."""
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    held = torch.cuda.memory_allocated(device)
    results = run()
    return results, torch.cuda.max_memory_allocated(device) - held


def errors_then_success(forward: Forward, device: torch.device) -> Iterator[str]:
    """A refused call raises the documented error, leaves no CUDA error, and does not change the next call."""
    case = CASES[0]
    inputs = make_inputs(case, device)
    q, k, v = inputs.q, inputs.k, inputs.v
    expected = call(forward, case, inputs)
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
    if not same_results(expected, call(forward, case, inputs)):
        yield "a call after refused calls gives another result"


def _wide(tensor: Tensor) -> Tensor:
    return tensor.repeat(1, 1, 1, 3)


def _error_of(forward: Forward, tensors: tuple[Tensor, Tensor, Tensor]) -> Exception | None:
    try:
        forward(*tensors, None, False)
    except Exception as error:  # noqa: BLE001  the wrong error is what this looks for
        return error
    return None


def second_derivative_refused(_forward: Forward, device: torch.device) -> Iterator[str]:
    """Inputs that require a gradient give the same output, and a derivative of their gradient raises."""
    inputs = make_inputs(CASES[1], device)
    q = inputs.q.clone().requires_grad_()
    out = flash_attn_func(q, inputs.k, inputs.v)
    plain = flash_attn_func(inputs.q, inputs.k, inputs.v)
    if not (isinstance(out, Tensor) and isinstance(plain, Tensor) and torch.equal(out, plain)):
        yield "a forward call on tensors that require a gradient gives another result"
        return
    (gradient,) = torch.autograd.grad(out.sum(), q, create_graph=True)
    try:
        gradient.sum().backward()
    except NotImplementedError:
        return
    yield "the derivative of a gradient did not raise NotImplementedError"


def out_refused(forward: Forward, device: torch.device) -> Iterator[str]:
    """An ``out`` that cannot be written is refused by name, and is not written."""
    case = CASES[0]
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
