"""Inputs of a backward case, and the call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from flash_attn3.checks.data.call import call
from flash_attn3.checks.data.inputs import DTYPES, AttentionInputs, make_inputs
from flash_attn3.checks.data.layouts import LAYOUTS

if TYPE_CHECKING:
    from flash_attn3.checks.cases.backward import BackwardCase
    from flash_attn3.checks.data.call import Forward


@dataclass(frozen=True)
class BackwardInputs:
    """Tensors of one call and of its backward pass.

    Attributes:
        attention: of the call.
        dout: gradient of out, as autograd passes it; NaN in rows of q that are not used.
        dlse: gradient of the LSE, likewise; None if the loss does not depend on it.
        padded_dout: (batch, seqlen_q, heads, head_dim_v), 0 in rows that are not used.
        padded_dlse: (batch, heads, seqlen_q), likewise, or None.
    """

    attention: AttentionInputs
    dout: Tensor
    dlse: Tensor | None
    padded_dout: Tensor
    padded_dlse: Tensor | None


def make_backward_inputs(case: BackwardCase, device: torch.device) -> BackwardInputs:
    """Return the inputs of a case on a device; equal for equal cases."""
    attention = case.attention
    inputs = make_inputs(attention, device)
    generator = torch.Generator(device=device).manual_seed(attention.seed + 1_000_003)
    shape = (attention.batch, attention.seqlen_q, attention.heads, attention.head_dim_v or attention.head_dim)
    dtype = DTYPES[attention.dtype]
    dout = torch.randn(shape, generator=generator, device=device).to(dtype)
    dlse: Tensor | None = None
    if case.lse_gradient:
        dlse = torch.randn(shape[0], shape[2], shape[1], generator=generator, device=device)
    if inputs.sequences is None:
        passed = LAYOUTS[attention.layout](shape, dtype, device) if attention.layout in LAYOUTS else None
        if passed is None or 0 in passed.view.stride():  # an expanded gradient cannot hold these values
            return BackwardInputs(inputs, dout, dlse, dout, dlse)
        passed.view.copy_(dout)
        return BackwardInputs(inputs, passed.view, dlse, dout, dlse)
    sequences = inputs.sequences
    used = sequences.used_q
    padded = dout.masked_fill(~used[:, :, None, None], 0.0)
    padded_dlse = None if dlse is None else dlse.masked_fill(~used[:, None], 0.0)
    placed = torch.full((*inputs.q.shape[:-1], shape[-1]), torch.nan, dtype=dtype, device=device)
    if sequences.rows_q is None:
        placed[used] = dout[used]
        placed_dlse = None if dlse is None else dlse.masked_fill(~used[:, None], torch.nan)
    else:
        rows = sequences.rows_q[used]
        placed[rows] = dout[used]
        placed_dlse = None
        if dlse is not None:
            placed_dlse = torch.full((shape[2], inputs.q.shape[0]), torch.nan, device=device)
            placed_dlse[:, rows] = dlse.transpose(1, 2)[used].T
    return BackwardInputs(inputs, placed, placed_dlse, padded, padded_dlse)


def call_backward(
    forward: Forward, case: BackwardCase, inputs: BackwardInputs, **options: Any
) -> tuple[Tensor, ...]:
    """Call ``forward`` and its backward pass; return (dq, dk, dv) and, with a sink, dsink."""
    attention = inputs.attention
    leaves = [tensor.detach().requires_grad_() for tensor in (attention.q, attention.k, attention.v)]
    given = dict(attention.options)
    if attention.sink is not None:
        leaves.append(attention.sink.detach().requires_grad_())
        given["learnable_sink"] = leaves[-1]
    tracked = AttentionInputs(leaves[0], leaves[1], leaves[2], given)
    options |= {"deterministic": True} if case.deterministic else {}
    out, lse = call(forward, case.attention, tracked, **options)
    results, gradients = [out], [inputs.dout]
    if inputs.dlse is not None:
        results.append(lse)
        gradients.append(inputs.dlse)
    return torch.autograd.grad(results, leaves, gradients)
