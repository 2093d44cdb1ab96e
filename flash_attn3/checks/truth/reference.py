"""Attention in plain PyTorch: in float64, the truth, and in the dtype of the inputs.

Both follow the definition, ``softmax(mask(cap(scale * q @ k.T))) @ v`` row by row, on blocks of query rows,
so that 16k x 16k scores are never in memory at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flash_attn3.checks.cases.case import AttentionCase
    from flash_attn3.checks.data.inputs import AttentionInputs, Lengths

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


@dataclass(frozen=True)
class Scoring:
    """Scale, mask, softcap and sink of a call.

    Attributes:
        softmax_scale: multiplies the scores first.
        causal: masks keys after the position of the query; positions are aligned to the bottom right.
        window: (left, right), visible keys before and after that position; -1 for all.
        attention_chunk: masks keys outside the query's chunk of so many positions; 0 for none.
        softcap: ``softcap * tanh(score / softcap)``; 0 for none.
        sink: (heads,) one more logit in the softmax sum of each row; None for none.
        lengths: of each batch item; None for the lengths of the tensors.
    """

    softmax_scale: float
    causal: bool = False
    window: tuple[int, int] = (-1, -1)
    attention_chunk: int = 0
    softcap: float = 0.0
    sink: Tensor | None = None
    lengths: Lengths | None = None


def scoring_of(case: AttentionCase, inputs: AttentionInputs) -> Scoring:
    """Return the scoring of a case."""
    return Scoring(
        case.scale,
        case.causal,
        window=case.window,
        attention_chunk=case.attention_chunk,
        softcap=case.softcap,
        sink=inputs.sink,
        lengths=inputs.lengths,
    )


def attention_fp64(
    q: Tensor, k: Tensor, v: Tensor, scoring: Scoring, *, rows: Rows | None = None
) -> Attention:
    """Return attention in float64. Rows without visible keys give out 0 and LSE -inf, or the sink.

    Rows of q beyond the length of their batch item give out 0 and LSE -inf.

    Args:
        q: (batch, seqlen_q, heads, head_dim), any floating dtype.
        k: (batch, seqlen_k, heads_kv, head_dim), finite also beyond the length.
        v: (batch, seqlen_k, heads_kv, head_dim_v), likewise.
        scoring: scale, softcap, mask and sink.
        rows: only these query rows; all when None.
    """
    batch, seqlen_q, heads, _ = q.shape
    rows = rows or Rows(0, seqlen_q)
    out = torch.zeros(batch, rows.stop - rows.start, heads, v.shape[3], dtype=torch.float64, device=q.device)
    lse = torch.full((batch, heads, rows.stop - rows.start), -torch.inf, dtype=torch.float64, device=q.device)
    if out.numel() == 0:
        return Attention(out, lse)
    keys, values = k.double(), v.double()
    for block in row_blocks(rows, q, k):
        scores = scores_of(q[:, block.start : block.stop].double() * scoring.softmax_scale, keys)
        scores = visible_scores(scores, block, q.shape[1], scoring)
        block_lse = torch.logsumexp(scores, dim=-1)
        peak = scores.amax(-1) if scores.shape[-1] else torch.full_like(block_lse, -torch.inf)
        sink = torch.full_like(block_lse, -torch.inf)
        if scoring.sink is not None:
            sink = _by_group(scoring.sink.double(), k.shape[2]).expand_as(block_lse)
            block_lse = torch.logaddexp(block_lse, sink)
            peak = torch.maximum(peak, sink)
        # The LSE of scores of 1e15 is rounded by 0.1, so the maximum is subtracted. A row without visible
        # keys has the maximum -inf; any finite one makes its probabilities exp(-inf) = 0.
        peak = torch.where(peak == -torch.inf, 0.0, peak)
        weights = torch.exp(scores - peak[..., None])
        total = weights.sum(-1) + torch.exp(sink - peak)
        probabilities = weights / torch.where(total == 0.0, 1.0, total)[..., None]
        here = slice(block.start - rows.start, block.stop - rows.start)
        out[:, here] = _weighted(probabilities, values)
        lse[:, :, here] = block_lse.flatten(1, 2)
    if scoring.lengths is not None:
        unused = _unused(scoring.lengths, rows)
        out.masked_fill_(unused[:, :, None, None], 0.0)
        lse.masked_fill_(unused[:, None], -torch.inf)
    return Attention(out, lse)


def attention_same_precision(
    q: Tensor, k: Tensor, v: Tensor, scoring: Scoring, *, rows: Rows | None = None
) -> Tensor:
    """Return ``out`` as plain PyTorch computes it in the dtype of q, with the scale applied to k."""
    rows = rows or Rows(0, q.shape[1])
    out = q.new_zeros(q.shape[0], rows.stop - rows.start, q.shape[2], v.shape[3])
    if k.shape[1] == 0 or out.numel() == 0:
        return out
    keys = k * scoring.softmax_scale
    for block in row_blocks(rows, q, k):
        scores = scores_of(q[:, block.start : block.stop], keys)
        scores = visible_scores(scores, block, q.shape[1], scoring)
        sees_none = (scores == -torch.inf).all(-1, keepdim=True)
        if scoring.sink is not None:
            sink = _by_group(scoring.sink.to(q.dtype), k.shape[2])
            scores = torch.cat((scores, sink[..., None].expand(*scores.shape[:-1], 1)), dim=-1)
        probabilities = torch.softmax(scores, dim=-1)[..., : k.shape[1]]
        probabilities = probabilities.masked_fill(sees_none, 0.0)
        out[:, block.start - rows.start : block.stop - rows.start] = _weighted(probabilities, v)
    if scoring.lengths is not None:
        out.masked_fill_(_unused(scoring.lengths, rows)[:, :, None, None], 0.0)
    return out


def _unused(lengths: Lengths, rows: Rows) -> Tensor:
    """Return which rows are beyond the length of their batch item, (batch, rows)."""
    return torch.arange(rows.start, rows.stop, device=lengths.q.device) >= lengths.q[:, None]


def row_blocks(rows: Rows, q: Tensor, k: Tensor) -> Iterator[Rows]:
    """Yield blocks of query rows whose scores fit into memory."""
    step = max(1, _BLOCK_SCORES // max(1, q.shape[0] * q.shape[2] * k.shape[1]))
    for start in range(rows.start, rows.stop, step):
        yield Rows(start, min(start + step, rows.stop))


def scores_of(q: Tensor, k: Tensor) -> Tensor:
    """Return (batch, heads_kv, group, rows, seqlen_k): the query heads of a group share a key head."""
    batch, rows, heads, head_dim = q.shape
    heads_kv, seqlen_k = k.shape[2], k.shape[1]
    grouped = q.reshape(batch, rows, heads_kv, heads // heads_kv, head_dim).permute(0, 2, 3, 1, 4)
    folded = grouped.reshape(batch, heads_kv, heads // heads_kv * rows, head_dim)
    return (folded @ k.permute(0, 2, 3, 1)).reshape(batch, heads_kv, heads // heads_kv, rows, seqlen_k)


def _weighted(probabilities: Tensor, v: Tensor) -> Tensor:
    batch, heads_kv, group, rows, seqlen_k = probabilities.shape
    out = probabilities.reshape(batch, heads_kv, group * rows, seqlen_k) @ v.permute(0, 2, 1, 3)
    return out.reshape(batch, heads_kv * group, rows, v.shape[3]).transpose(1, 2)


def _by_group(sink: Tensor, heads_kv: int) -> Tensor:
    """Return the sink as (1, heads_kv, group, 1), the shape of the scores of one key."""
    return sink.reshape(1, heads_kv, -1, 1)


def visible_scores(scores: Tensor, block: Rows, seqlen_q: int, scoring: Scoring) -> Tensor:
    """Return scaled scores of a block of rows, capped, -inf for hidden keys; ``scores`` may be changed."""
    if scoring.softcap:
        scores = scoring.softcap * torch.tanh(scores / scoring.softcap)
    hidden = _hidden(scores, block, seqlen_q, scoring)
    return scores if hidden is None else scores.masked_fill_(hidden[:, None, None], -torch.inf)


def _hidden(scores: Tensor, block: Rows, seqlen_q: int, scoring: Scoring) -> Tensor | None:
    """Return which keys are masked for each row, (batch or 1, rows, seqlen_k); None for no mask."""
    seqlen_k = scores.shape[-1]
    left, right = scoring.window
    right = 0 if scoring.causal else right
    lengths, chunk = scoring.lengths, scoring.attention_chunk
    if left < 0 and right < 0 and not chunk and lengths is None:
        return None
    row = torch.arange(block.start, block.stop, device=scores.device)[None, :, None]
    key = torch.arange(seqlen_k, device=scores.device)[None, None, :]
    if lengths is None:
        position = row + (seqlen_k - seqlen_q)
        hidden = torch.zeros(1, block.stop - block.start, seqlen_k, dtype=torch.bool, device=scores.device)
    else:
        position = row + (lengths.k - lengths.q)[:, None, None]
        hidden = (key >= lengths.k[:, None, None]).expand(-1, block.stop - block.start, -1)
    if left >= 0:
        hidden = hidden | (key < position - left)
    if right >= 0:
        hidden = hidden | (key > position + right)
    if chunk:
        hidden = hidden | (key // chunk != position.div(chunk, rounding_mode="floor"))
    return hidden
