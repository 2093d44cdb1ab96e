"""Attention as a tiled kernel computes it, in plain PyTorch, and the same with one of the classic mistakes.

The checks must pass the first and fail the others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_SEQUENCES = {
    *("cu_seqlens_q", "cu_seqlens_k", "seqused_q", "seqused_k", "page_table", "max_seqlen_q", "max_seqlen_k"),
}


@dataclass(frozen=True)
class TiledAttention:
    """Online softmax over key tiles: float32 scores and sums, probabilities in the dtype of the inputs.

    Every field but ``tile`` is a mistake when it differs from its default.
    """

    tile: int = 128
    causal_shift: int = 0  # moves the causal diagonal
    first_maximum: bool = False  # keeps a row's maximum of the first tile in which it sees a key
    rescale: bool = True  # rescales the output when the running maximum moves
    skip_last_row: bool = False  # leaves the last query row unwritten
    sum_rounded: bool = False  # sums bfloat16-rounded probabilities in bfloat16
    drop_last_key: bool = False  # masks one key too many at the end
    top_left: bool = False  # aligns the causal mask to the top left
    lse_log2: bool = False  # returns the LSE in base 2
    lse_masked: float = -math.inf  # the LSE of a row that sees no key
    wrong_head: bool = False  # query head i uses key head i % heads_kv
    round_scores: bool = False  # rounds the scores to the dtype of the inputs, twice
    left_shift: int = 0  # moves the window's left limit
    right_shift: int = 0  # moves the window's right limit
    chunk_shift: int = 0  # moves the boundaries of chunks
    no_softcap: bool = False  # leaves scores as they are
    cap_before_scale: bool = False  # caps the scores before they are scaled
    no_sink: bool = False  # leaves the sink out
    lse_without_sink: bool = False  # leaves the sink out of the LSE alone
    pages_in_order: bool = False  # takes the pages as they lie
    reads_longest: bool = False  # reads as many keys as the longest sequence has
    masks_by_longest: bool = False  # aligns the masks of a batch to its longest sequence

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, softmax_scale: float | None, causal: bool, **options: Any
    ) -> tuple[Tensor, Tensor]:
        where = {name: options.pop(name) for name in tuple(options) if name in _SEQUENCES}
        if not where:
            return self._one_length(q, k, v, softmax_scale, causal, **options)
        return self._sequence_by_sequence((q, k, v), where, softmax_scale, causal, options)

    def _sequence_by_sequence(self, tensors, where, softmax_scale, causal, options):
        q, k, v = tensors
        starts_q, starts_k = where.get("cu_seqlens_q"), where.get("cu_seqlens_k")
        batch = q.shape[0] if starts_q is None else len(starts_q) - 1
        out = torch.full((*q.shape[:-1], v.shape[-1]), torch.nan, dtype=q.dtype)
        packed = starts_q is not None
        lse = torch.full((q.shape[1], q.shape[0]) if packed else (batch, q.shape[2], q.shape[1]), torch.nan)
        rows_k = [self._rows_of_k(k, where, item) for item in range(batch)]
        longest = max(map(len, rows_k), default=0)
        flat_k, flat_v = (x if starts_k is not None else x.flatten(0, 1) for x in (k, v))
        for item in range(batch):
            length = q.shape[1] if not packed else int(starts_q[item + 1] - starts_q[item])
            if "seqused_q" in where:
                length = min(length, int(where["seqused_q"][item]))
            start = int(starts_q[item]) if packed else 0
            mine = slice(start, start + length)
            rows = rows_k[item]
            if self.reads_longest and len(rows):
                rows = torch.cat((rows, torch.arange(longest - len(rows)) + rows[-1] + 1)) % len(flat_k)
            found = self._one_length(
                (q[mine] if packed else q[item, mine])[None],
                flat_k[rows][None],
                flat_v[rows][None],
                softmax_scale,
                causal,
                shift=longest - len(rows) if self.masks_by_longest else 0,
                **options,
            )
            if packed:
                out[mine], lse[:, mine] = found[0][0], found[1][0]
            else:
                out[item, mine], lse[item, :, mine] = found[0][0], found[1][0]
        return out, lse

    def _rows_of_k(self, k: Tensor, where: dict[str, Any], item: int) -> Tensor:
        starts, table = where.get("cu_seqlens_k"), where.get("page_table")
        first, stop = (int(x) for x in starts[item : item + 2]) if starts is not None else (0, k.shape[1])
        length = stop - first
        if table is not None:
            length = table.shape[1] * k.shape[1]
        if "seqused_k" in where:
            length = min(length, int(where["seqused_k"][item]))
        row = torch.arange(length)
        if table is not None:
            pages = row // k.shape[1] if self.pages_in_order else table[item, row // k.shape[1]]
            pages = pages.clamp(0, k.shape[0] - 1)  # entries that no query needs may be any number
            return pages * k.shape[1] + row % k.shape[1]
        return row + (first if starts is not None else item * k.shape[1])

    def _one_length(
        self,
        q,
        k,
        v,
        softmax_scale,
        causal,
        *,
        window_size=(-1, -1),
        attention_chunk=0,
        softcap=0.0,
        learnable_sink=None,
        shift=0,
    ):
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
        shift += self.causal_shift + (0 if self.top_left else seqlen_k - seqlen_q)
        seen = ~self._hidden(torch.arange(seqlen_k), row + shift, causal, window_size, attention_chunk)
        first_seen = int(seen.any(dim=0).int().argmax()) if seen.any() else 0
        last_key = seqlen_k - (1 if self.drop_last_key else 0)
        for start in reversed(range(0, seqlen_k, self.tile)):
            key = torch.arange(start, min(start + self.tile, seqlen_k))
            # Rounded once: equal keys have equal scores, however large, as on a tensor core.
            products = (qf.double() @ kf[:, :, key].double().transpose(2, 3)).float()
            scores = self._scores(products, scale, softcap, dtype)
            hidden = self._hidden(key, row + shift, causal, window_size, attention_chunk)
            hidden = hidden | (key >= last_key)[None, :]
            scores = scores.masked_fill(hidden, -math.inf)
            new_best = torch.maximum(best, scores.amax(-1, keepdim=True))
            if self.first_maximum:
                new_best = torch.where(best == -math.inf, new_best, best)
            base = torch.where(new_best == -math.inf, 0.0, new_best)
            probabilities = torch.exp(scores - base)
            factor = torch.exp(torch.where(best == -math.inf, -math.inf, best - base))
            rounded = probabilities.to(dtype).float()
            summed = rounded.to(dtype).sum(-1, keepdim=True).to(dtype).float() if self.sum_rounded else None
            total = total * factor + (probabilities.sum(-1, keepdim=True) if summed is None else summed)
            if self.rescale:
                out = out * factor
            # Keys before the first that a query sees may hold NaN; no others.
            out = out + rounded @ vf[:, :, key].masked_fill((key < first_seen)[:, None], 0.0)
            best = new_best
        lse_best, lse_total = best, total
        if learnable_sink is not None and not self.no_sink:
            sink = learnable_sink[None, :, None, None].expand_as(best)
            peak = torch.maximum(best, sink)
            factor = torch.where(best == -math.inf, 0.0, torch.exp(best - peak))
            out, total = out * factor, total * factor + torch.exp(sink - peak)
            lse_best, lse_total = (lse_best, lse_total) if self.lse_without_sink else (peak, total)
        out = torch.where(total == 0, 0.0, out / total)
        lse = torch.where(lse_total == 0, self.lse_masked, lse_best + torch.log(lse_total))[..., 0]
        if self.lse_log2:
            lse = lse / math.log(2)
        result = out.transpose(1, 2).to(dtype).contiguous()
        if self.skip_last_row and seqlen_q:
            result[:, -1] = 0
        return result, lse.contiguous()

    def _scores(self, products: Tensor, scale: float, softcap: float, dtype: torch.dtype) -> Tensor:
        if softcap and self.cap_before_scale:
            scores = scale * softcap * torch.tanh(products / softcap)
        elif softcap and not self.no_softcap:
            scores = softcap * torch.tanh(scale * products / softcap)
        else:
            scores = scale * products
        return (scores.to(dtype) * 3).to(dtype).float() / 3 if self.round_scores else scores

    def _hidden(self, key: Tensor, position: Tensor, causal: bool, window, chunk: int) -> Tensor:
        """Return (rows, keys), for keys and the positions, (rows, 1), at which the queries stand."""
        left, right = window
        hidden = torch.zeros(len(position), len(key), dtype=torch.bool)
        if causal:
            hidden |= key > position
        if left >= 0:
            hidden |= key < position - left + self.left_shift
        if right >= 0:
            hidden |= key > position + right + self.right_shift
        if chunk:
            first = (position + self.chunk_shift) // chunk * chunk - self.chunk_shift
            hidden |= (key < first) | (key >= first + chunk)
        return hidden
