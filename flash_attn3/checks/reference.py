"""Attention in plain PyTorch: in float64, which is taken as the truth, and in the inputs' own precision.

Both are written from the definition, ``softmax(scale * q @ k.T + mask) @ v`` row by row, and work on blocks
of query rows so that 16k x 16k scores are never held at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterator

_BLOCK_SCORES = 1 << 25  # scores held at once: 256 MiB in float64


@dataclass(frozen=True)
class Attention:
    """``out`` (batch, seqlen_q, heads, head_dim_v); ``lse`` (batch, heads, seqlen_q), natural logarithm."""

    out: Tensor
    lse: Tensor


@dataclass(frozen=True)
class Rows:
    """Query rows ``start`` to ``stop`` of every batch item and head."""

    start: int
    stop: int


def attention_fp64(
    q: Tensor, k: Tensor, v: Tensor, *, softmax_scale: float, causal: bool, rows: Rows | None = None
) -> Attention:
    """Return attention computed in float64; rows that see no key give out 0 and LSE -inf.

    Args:
        q: (batch, seqlen_q, heads, head_dim), any floating dtype.
        k: (batch, seqlen_k, heads_kv, head_dim).
        v: (batch, seqlen_k, heads_kv, head_dim_v).
        softmax_scale: the factor before the softmax.
        causal: bottom-right aligned causal mask.
        rows: only these query rows; all when None.
    """
    batch, seqlen_q, heads, _ = q.shape
    rows = rows or Rows(0, seqlen_q)
    out = torch.zeros(batch, rows.stop - rows.start, heads, v.shape[3], dtype=torch.float64, device=q.device)
    lse = torch.full((batch, heads, rows.stop - rows.start), -torch.inf, dtype=torch.float64, device=q.device)
    if k.shape[1] == 0 or out.numel() == 0:
        return Attention(out, lse)
    keys, values = k.double(), v.double()
    for block in _blocks(rows, q, k):
        scores = _scores(q[:, block.start : block.stop].double() * softmax_scale, keys)
        _mask(scores, block, q.shape[1], causal)
        block_lse = torch.logsumexp(scores, dim=-1)
        # A row that sees no key has LSE -inf; any finite shift makes its probabilities exp(-inf) = 0.
        shift = torch.where(block_lse == -torch.inf, 0.0, block_lse)
        probabilities = torch.exp(scores - shift[..., None])
        here = slice(block.start - rows.start, block.stop - rows.start)
        out[:, here] = _weighted(probabilities, values)
        lse[:, :, here] = block_lse.flatten(1, 2)
    return Attention(out, lse)


def attention_same_precision(
    q: Tensor, k: Tensor, v: Tensor, *, softmax_scale: float, causal: bool, rows: Rows | None = None
) -> Tensor:
    """Return ``out`` computed in the dtype of q, the scale applied to K: what plain PyTorch gets."""
    rows = rows or Rows(0, q.shape[1])
    out = q.new_zeros(q.shape[0], rows.stop - rows.start, q.shape[2], v.shape[3])
    if k.shape[1] == 0 or out.numel() == 0:
        return out
    keys = k * softmax_scale
    for block in _blocks(rows, q, k):
        scores = _scores(q[:, block.start : block.stop], keys)
        visible = _mask(scores, block, q.shape[1], causal)
        probabilities = torch.softmax(scores, dim=-1)
        if visible is not None:
            probabilities.masked_fill_(~visible.any(-1)[:, None], 0.0)
        out[:, block.start - rows.start : block.stop - rows.start] = _weighted(probabilities, v)
    return out


def _blocks(rows: Rows, q: Tensor, k: Tensor) -> Iterator[Rows]:
    step = max(1, _BLOCK_SCORES // (q.shape[0] * q.shape[2] * k.shape[1]))
    for start in range(rows.start, rows.stop, step):
        yield Rows(start, min(start + step, rows.stop))


def _scores(q: Tensor, k: Tensor) -> Tensor:
    """Return (batch, heads_kv, group, rows, seqlen_k): query heads stand in groups that share a key head."""
    batch, rows, heads, head_dim = q.shape
    heads_kv = k.shape[2]
    grouped = q.reshape(batch, rows, heads_kv, heads // heads_kv, head_dim).permute(0, 2, 3, 1, 4)
    folded = grouped.reshape(batch, heads_kv, -1, head_dim)
    return (folded @ k.permute(0, 2, 3, 1)).reshape(batch, heads_kv, heads // heads_kv, rows, -1)


def _weighted(probabilities: Tensor, v: Tensor) -> Tensor:
    batch, heads_kv, group, rows, seqlen_k = probabilities.shape
    out = probabilities.reshape(batch, heads_kv, group * rows, seqlen_k) @ v.permute(0, 2, 1, 3)
    return out.reshape(batch, heads_kv * group, rows, -1).transpose(1, 2)


def _mask(scores: Tensor, block: Rows, seqlen_q: int, causal: bool) -> Tensor | None:
    """Set hidden scores to -inf in place; return which keys the block's rows see, or None for all."""
    if not causal:
        return None
    seqlen_k = scores.shape[-1]
    row = torch.arange(block.start, block.stop, device=scores.device)[:, None]
    key = torch.arange(seqlen_k, device=scores.device)[None, :]
    visible = key <= row + (seqlen_k - seqlen_q)
    scores.masked_fill_(~visible, -torch.inf)
    return visible
