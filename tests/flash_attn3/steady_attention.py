"""Attention as the Hopper kernels compute it (`device/parts/steady_softmax.cuh`), in plain PyTorch."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

TILE = 128
HIGH, OUTRUN = 2.0**13, 2.0**64


def steady_attention(
    q: Tensor, k: Tensor, v: Tensor, softmax_scale: float | None, causal: bool
) -> tuple[Tensor, Tensor]:
    """Attention without a mask: the reference of a row moves only when the sum of a tile is too large."""
    assert not causal
    batch, seqlen_q, heads, head_dim = q.shape
    group = heads // k.shape[2]
    scale = (head_dim**-0.5 if softmax_scale is None else softmax_scale) / math.log(2)
    qf = q.float().transpose(1, 2)
    kf, vf = (x.float().transpose(1, 2).repeat_interleave(group, 1) for x in (k, v))
    reference = torch.full((batch, heads, seqlen_q, 1), -math.inf)
    total = torch.zeros(batch, heads, seqlen_q, 1)
    out = torch.zeros(batch, heads, seqlen_q, v.shape[3])
    for start in reversed(range(0, k.shape[1], TILE)):
        keys, values = kf[:, :, start : start + TILE], vf[:, :, start : start + TILE]
        missing = TILE - keys.shape[2]
        scores = pad(qf @ keys.transpose(2, 3) * scale, (0, missing), value=-math.inf)
        peak = scores.amax(-1, keepdim=True)
        reference = torch.where(reference == -math.inf, peak, reference)
        late = largest_share((scores - reference).exp2())[..., None] > OUTRUN
        shrink = torch.where(late, (reference - peak).exp2(), 1.0)
        reference = torch.where(late, peak, reference)
        p = (scores - reference).exp2()
        total = total * shrink + p.sum(-1, keepdim=True)
        out = out * shrink + p.to(q.dtype).float() @ pad(values, (0, 0, 0, missing))
        share = largest_share(p)[..., None]
        rise = torch.where(share > HIGH, share.log2().floor(), 0.0)
        reference, total, out = reference + rise, total * (-rise).exp2(), out * (-rise).exp2()
    lse = (reference + total.log2()) * math.log(2)
    return (out / total).to(q.dtype).transpose(1, 2).contiguous(), lse.squeeze(-1)


def largest_share(p: Tensor) -> Tensor:
    """Return the largest sum of p over the keys of one thread: each of four has two keys of every eight."""
    return p.unflatten(-1, (-1, 4, 2)).sum((-3, -1)).amax(-1)
