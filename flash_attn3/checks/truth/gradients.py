"""Gradients of attention in plain PyTorch: in float64, the truth, and in the dtype of the inputs.

Both follow the definition, on blocks of query rows:

    dv = P^T dout;  dS = P * (dout v^T - delta) * cap'(S);  dq = scale * dS k;  dk = scale * dS^T q

with ``delta = rowsum(out * dout) - dLSE``; and ``dsink = -sum(exp(sink - LSE) * delta)`` over the rows of a
head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from flash_attn3.checks.truth.reference import Rows, row_blocks, scores_of, visible_scores

if TYPE_CHECKING:
    from flash_attn3.checks.truth.reference import Attention, Scoring


@dataclass(frozen=True)
class Gradients:
    """``dq`` (batch, seqlen_q, heads, head_dim), ``dk`` and ``dv`` likewise; ``dsink`` (heads,) or None."""

    dq: Tensor
    dk: Tensor
    dv: Tensor
    dsink: Tensor | None


@dataclass(frozen=True)
class Loss:
    """Gradients of a loss.

    Attributes:
        dout: (batch, seqlen_q, heads, head_dim_v), 0 in rows that are not used.
        dlse: (batch, heads, seqlen_q) float32, likewise, or None.
    """

    dout: Tensor
    dlse: Tensor | None


def gradients(
    operands: tuple[Tensor, Tensor, Tensor],
    loss: Loss,
    scoring: Scoring,
    forward: Attention,
    dtype: torch.dtype,
) -> Gradients:
    """Return the gradients, computed in ``dtype``.

    Args:
        operands: q (batch, seqlen_q, heads, head_dim), k (batch, seqlen_k, heads_kv, head_dim) and v (batch,
            seqlen_k, heads_kv, head_dim_v), finite also beyond the length.
        loss: gradients of the results.
        scoring: scale, softcap, mask and sink.
        forward: the float64 results of the call.
        dtype: float64, or the dtype of q.
    """
    q, k, v, dout = (tensor.to(dtype) for tensor in (*operands, loss.dout))
    dlse = loss.dlse
    batch, seqlen_q, heads, _ = q.shape
    heads_kv = k.shape[2]
    found = Gradients(
        torch.zeros_like(q),
        torch.zeros_like(k),
        torch.zeros_like(v),
        None if scoring.sink is None else torch.zeros(heads, dtype=torch.float64, device=q.device),
    )
    if q.numel() == 0 or k.numel() == 0:
        return found
    out, lse = forward.out.to(dtype), forward.lse
    for rows in row_blocks(Rows(0, seqlen_q), q, k):
        here = slice(rows.start, rows.stop)
        raw = scores_of(q[:, here] * scoring.softmax_scale, k)
        slope = 1 - torch.tanh(raw / scoring.softcap) ** 2 if scoring.softcap else None
        scores = visible_scores(raw, rows, seqlen_q, scoring)
        block_lse = _grouped(lse[:, :, here], heads_kv)
        reachable = torch.where(block_lse == -torch.inf, 0.0, block_lse)
        p = torch.exp(scores.double() - reachable[..., None]).masked_fill(scores == -torch.inf, 0.0).to(dtype)
        of_out = _by_head(dout[:, here], heads_kv)
        delta = (_by_head(out[:, here], heads_kv) * of_out).sum(-1)
        if dlse is not None:
            usable = torch.where(lse[:, :, here] == -torch.inf, 0.0, dlse[:, :, here].double())
            delta = delta - _grouped(usable, heads_kv).to(dtype)
        dp = of_out @ v.permute(0, 2, 3, 1)[:, :, None]
        ds = p * (dp - delta[..., None])
        if slope is not None:
            ds = ds * slope
        ds = ds * scoring.softmax_scale
        found.dv.add_(torch.einsum("bhgqk,bhgqd->bkhd", p, of_out))
        found.dk.add_(torch.einsum("bhgqk,bhgqd->bkhd", ds, _by_head(q[:, here], heads_kv)))
        found.dq[:, here] = torch.einsum("bhgqk,bkhd->bqhgd", ds, k).reshape(batch, -1, heads, q.shape[3])
        if scoring.sink is not None and found.dsink is not None:
            sink = scoring.sink.double().reshape(1, heads_kv, -1, 1)
            weight = torch.where(block_lse == -torch.inf, 0.0, torch.exp(sink - reachable))
            found.dsink.sub_((weight * delta.double()).sum((0, 3)).flatten())
    return found


def _by_head(rows: Tensor, heads_kv: int) -> Tensor:
    """Return (batch, heads_kv, group, rows, columns) of (batch, rows, heads, columns)."""
    batch, count, heads, columns = rows.shape
    return rows.reshape(batch, count, heads_kv, heads // heads_kv, columns).permute(0, 2, 3, 1, 4)


def _grouped(of_rows: Tensor, heads_kv: int) -> Tensor:
    """Return (batch, heads_kv, group, rows) of (batch, heads, rows)."""
    batch, heads, count = of_rows.shape
    return of_rows.reshape(batch, heads_kv, heads // heads_kv, count)
