"""Combine in plain PyTorch: what the checks must pass, and mistakes, which they must not."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class PlainCombine:
    """The kernel's arithmetic in float32. Every field is a mistake when it differs from its default."""

    drop_last: bool = False  # leaves out the last split when there are several
    base_2: bool = False  # takes the LSE for base 2
    multiplies_empty: bool = False  # multiplies what lies in splits without keys
    lse_of_empty: float = -math.inf
    rounds_partials: bool = False  # rounds the partial results to bfloat16
    unscaled: bool = False  # forgets to divide by the sum
    lse_contiguous: bool = False
    ignores_out: bool = False
    writes_padding: bool = False
    skips_last_head: bool = False  # of a given out

    def __call__(self, out_partial, lse_partial, out=None, out_dtype=None):
        if self.drop_last and len(out_partial) > 1:
            out_partial, lse_partial = out_partial[:-1], lse_partial[:-1]
        best = lse_partial.amax(0)
        best = torch.where(best == -math.inf, 0.0, best)
        weights = torch.exp2(lse_partial - best) if self.base_2 else torch.exp(lse_partial - best)
        total = weights.sum(0)
        values = out_partial.bfloat16().float() if self.rounds_partials else out_partial
        if not self.multiplies_empty:
            values = values.masked_fill((lse_partial == -math.inf)[..., None], 0.0)
        combined = (weights[..., None] * values).sum(0)
        if not self.unscaled:
            combined /= torch.where(total == 0, 1.0, total)[..., None]
        lse = torch.where(total == 0, self.lse_of_empty, best + total.log())
        if not self.lse_contiguous:
            lse = lse.transpose(-1, -2).contiguous().transpose(-1, -2)
        if out is None:
            return combined.to(out_dtype), lse
        if self.skips_last_head:
            out[..., :-1, :] = combined[..., :-1, :].to(out.dtype)
            return out, lse
        if self.ignores_out:
            return combined.to(out.dtype), lse
        out.copy_(combined)
        if self.writes_padding:
            end = sum((size - 1) * stride for size, stride in zip(out.shape, out.stride(), strict=True))
            out.as_strided((1,), (1,), out.storage_offset() + end + 1).fill_(0)
        return out, lse
