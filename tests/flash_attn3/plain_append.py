"""Appending in plain PyTorch: what the checks must pass, and mistakes, which they must not."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from flash_attn3.checks.truth.append import rotate


@dataclass(frozen=True)
class PlainAppend:
    """The kernel's work, row by row, and attention in float32. Every field is a mistake when it is not 0."""

    rows_too_far: int = 0  # writes each row this much behind its place
    also_writes: int = 0  # rows behind the last
    forgets_rotation: int = 0
    forgets_queries: int = 0
    position_off: int = 0
    length_off: int = 0
    keeps_values: int = 0  # writes k alone
    padding_off: int = 0

    def __call__(  # noqa: C901, PLR0917
        self,
        q,
        k_cache,
        v_cache,
        k,
        v,
        cache_seqlens,
        cache_batch_idx=None,
        page_table=None,
        cu_seqlens_k_new=None,
        rotary_cos=None,
        rotary_sin=None,
        rotary_seqlens=None,
        rotary_interleaved=True,
        cu_seqlens_q=None,
        max_seqlen_q=0,  # noqa: ARG002
        cache_leftpad=None,
        causal=False,
        window_size=(-1, -1),
    ):
        first = cache_seqlens if rotary_seqlens is None else rotary_seqlens

        def turned(row, position):
            position += self.position_off
            if rotary_cos is None or not 0 <= position < len(rotary_cos):
                return row
            columns = 2 * rotary_cos.shape[1]
            tables = rotary_cos[position][None], rotary_sin[position][None]
            exact, _ = rotate(row[None, :, :columns], tables, rotary_interleaved)
            return torch.cat((exact[0].to(row.dtype), row[:, columns:]), dim=1)

        room = k_cache.shape[1] * (1 if page_table is None else page_table.shape[1])

        def place(sequence, row):
            if page_table is not None:
                slot = int(page_table[sequence, row // k_cache.shape[1]])
            else:
                slot = sequence if cache_batch_idx is None else int(cache_batch_idx[sequence])
            return (slot, row % k_cache.shape[1]) if 0 <= slot < len(k_cache) else None

        lengths = []
        for sequence, before in enumerate(cache_seqlens.tolist()):
            new_k, new_v = (_of(new, cu_seqlens_k_new, sequence) for new in (k, v))
            for i in range(len(new_k) + self.also_writes * (len(new_k) > 0)):
                row = before + i + self.rows_too_far
                found = place(sequence, row) if 0 <= row < room else None
                if found is None:
                    continue
                i = min(i, len(new_k) - 1)  # noqa: PLW2901
                kept = self.forgets_rotation
                k_cache[found] = new_k[i] if kept else turned(new_k[i], int(first[sequence]) + i)
                if not self.keeps_values:
                    v_cache[found] = new_v[i]
            lengths.append(min(max(before + len(new_k) + self.length_off, 0), room))
        if q is None:
            return (torch.tensor(lengths, dtype=torch.int32),)
        advances = causal or window_size != (-1, -1)
        outs, lses = [], []
        for sequence, length in enumerate(lengths):
            queries = _of(q, cu_seqlens_q, sequence)
            padding = 0 if cache_leftpad is None else int(cache_leftpad[sequence]) + self.padding_off
            rows = [place(sequence, row) for row in range(padding, length)]
            keys, values = (
                torch.stack([cache[row] for row in rows]) if rows else cache.new_empty(0, *cache.shape[2:])
                for cache in (k_cache, v_cache)
            )
            if not self.forgets_queries and len(queries):
                at = int(first[sequence])
                queries = torch.stack([turned(x, at + (i if advances else 0)) for i, x in enumerate(queries)])
            out, lse = _attend(queries, keys, values, 0 if causal else window_size[1], window_size[0])
            outs.append(out)
            lses.append(lse)
        if cu_seqlens_q is None:
            return torch.stack(outs), torch.stack(lses)
        return torch.cat(outs), torch.cat(lses, dim=1)


def _of(tensor, starts, sequence):
    return tensor[sequence] if starts is None else tensor[int(starts[sequence]) : int(starts[sequence + 1])]


def _attend(q, k, v, right, left):
    group = q.shape[1] // k.shape[1]
    keys, values = (tensor.float().repeat_interleave(group, 1) for tensor in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q.float(), keys) * q.shape[-1] ** -0.5
    position = torch.arange(len(q))[:, None] + len(k) - len(q)
    key = torch.arange(len(k))[None]
    if right >= 0:
        scores = scores.masked_fill(key > position + right, -torch.inf)
    if left >= 0:
        scores = scores.masked_fill(key < position - left, -torch.inf)
    lse = torch.logsumexp(scores, -1)
    weights = torch.exp(scores - torch.where(lse == -torch.inf, 0.0, lse)[..., None])
    return torch.einsum("hqk,khd->qhd", weights, values).to(q.dtype), lse
