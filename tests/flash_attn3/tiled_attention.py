"""Attention as a tiled kernel computes it, in plain PyTorch: what the checks must pass, and its classic
mistakes, which they must not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TiledAttention:
    """Online softmax over key tiles: float32 scores and sums, probabilities in the dtype of the inputs.

    Every field but ``tile`` is a mistake when it differs from its default.
    """

    tile: int = 128
    causal_shift: int = 0  # moves the causal diagonal
    rescale: bool = True  # rescales the output when the running maximum moves
    skip_last_row: bool = False  # leaves the last query row unwritten
    sum_rounded: bool = False  # sums bfloat16-rounded probabilities in bfloat16
    drop_last_key: bool = False  # masks one key too many at the end
    top_left: bool = False  # aligns the causal mask to the top left
    lse_log2: bool = False  # returns the LSE in base 2
    lse_masked: float = -math.inf  # the LSE of a row that sees no key
    wrong_head: bool = False  # query head i uses key head i % heads_kv
    round_scores: bool = False  # rounds the scores to the dtype of the inputs, twice

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, softmax_scale: float | None, causal: bool
    ) -> tuple[Tensor, Tensor]:
        batch, seqlen_q, heads, head_dim = q.shape
        seqlen_k, heads_kv = k.shape[1], k.shape[2]
        scale = head_dim**-0.5 if softmax_scale is None else softmax_scale
        dtype = q.dtype
        group = heads // heads_kv
        heads_of = [head % heads_kv if self.wrong_head else head // group for head in range(heads)]
        qf = q.float().transpose(1, 2)
        kf, vf = (tensor.float().transpose(1, 2)[:, heads_of] for tensor in (k, v))
        best = torch.full((batch, heads, seqlen_q, 1), -math.inf)
        total = torch.zeros(batch, heads, seqlen_q, 1)
        out = torch.zeros(batch, heads, seqlen_q, v.shape[3])
        row = torch.arange(seqlen_q)[:, None]
        shift = self.causal_shift + (0 if self.top_left else seqlen_k - seqlen_q)
        last_key = seqlen_k - (1 if self.drop_last_key else 0)
        for start in reversed(range(0, seqlen_k, self.tile)):
            key = torch.arange(start, min(start + self.tile, seqlen_k))
            scores = scale * (qf @ kf[:, :, key].transpose(2, 3))
            if self.round_scores:
                scores = (scores.to(dtype) * 3).to(dtype).float() / 3
            hidden = (key >= last_key)[None, :].expand(seqlen_q, -1)
            if causal:
                hidden = hidden | (key[None, :] > row + shift)
            scores = scores.masked_fill(hidden, -math.inf)
            new_best = torch.maximum(best, scores.amax(-1, keepdim=True))
            base = torch.where(new_best == -math.inf, 0.0, new_best)
            probabilities = torch.exp(scores - base)
            factor = torch.exp(torch.where(best == -math.inf, -math.inf, best - base))
            rounded = probabilities.to(dtype).float()
            summed = rounded.to(dtype).sum(-1, keepdim=True).to(dtype).float() if self.sum_rounded else None
            total = total * factor + (probabilities.sum(-1, keepdim=True) if summed is None else summed)
            if self.rescale:
                out = out * factor
            out = out + rounded @ vf[:, :, key]
            best = new_best
        out = torch.where(total == 0, 0.0, out / total)
        lse = torch.where(total == 0, self.lse_masked, best + torch.log(total))[..., 0]
        if self.lse_log2:
            lse = lse / math.log(2)
        result = out.transpose(1, 2).to(dtype).contiguous()
        if self.skip_last_row and seqlen_q:
            result[:, -1] = 0
        return result, lse.contiguous()
