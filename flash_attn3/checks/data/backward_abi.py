"""``fa3_bwd_args`` of a case: what the torch operators would pass to the C ABI."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from flash_attn3 import _native
from flash_attn3._native.bwd import BwdArgs, backward_kernels
from flash_attn3.checks.data.forward_abi import new_rows, readable, set_sequences, set_tensor
from flash_attn3.checks.kinds import BESIDE

if TYPE_CHECKING:
    from collections.abc import Callable

    from flash_attn3.checks.cases.backward import BackwardCase
    from flash_attn3.checks.data.gradients import BackwardInputs


def kernel_of_backward(case: BackwardCase, inputs: BackwardInputs) -> Callable[[], str]:
    """Return a function that returns the names of the kernels that the backward pass of a case would launch.

    Tensors in layouts that the torch operators would copy are replaced, as in ``forward_abi``.
    """
    attention, call = case.attention, inputs.attention
    q, k, v = (readable(tensor) for tensor in (call.q, call.k, call.v))
    out, dout = (new_rows(q, (*q.shape[:-1], v.shape[-1])) for _ in range(2))
    dq, dk, dv = (new_rows(tensor, tuple(tensor.shape)) for tensor in (q, k, v))
    rows = q.new_empty(max(1, out.shape[:-1].numel()), dtype=torch.float32)
    kept = replace(call, q=q, k=k, v=v)

    def name() -> str:
        arguments = BwdArgs()
        arguments.device = q.device.index or 0
        dtype = _native.Dtype[attention.dtype.upper()]
        tensors = {"q": q, "k": k, "v": v, "out": out, "dout": dout, "dq": dq, "dk": dk, "dv": dv}
        for argument, tensor in tensors.items():
            set_tensor(getattr(arguments, argument), tensor, dtype)
        arguments.lse = rows.data_ptr()
        if kept.sink is not None:
            arguments.sink, arguments.dsink = kept.sink.data_ptr(), kept.sink.data_ptr()
        set_sequences(arguments.sequences, attention, kept)
        arguments.mask.causal = attention.causal
        arguments.mask.window_left, arguments.mask.window_right = attention.window
        arguments.mask.attention_chunk = attention.attention_chunk
        arguments.scale.softmax_scale = attention.scale
        arguments.scale.softcap = attention.softcap
        arguments.deterministic = case.deterministic
        return BESIDE.join(kernel.name for kernel in backward_kernels(arguments) if kernel.name)

    return name
