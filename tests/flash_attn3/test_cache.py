"""How attention reads a cache: the rows that it is given are those of each sequence, behind its padding."""

from __future__ import annotations

import random

import pytest
import torch

from flash_attn3._cache import Cache, place_keys


def rows_of(cache: Cache, sequence: int, length: int) -> torch.Tensor:
    """The rows of a sequence by the definition of the arguments."""
    rows = []
    page_size = cache.k_cache.shape[1]
    padding = 0 if cache.cache_leftpad is None else int(cache.cache_leftpad[sequence])
    for row in range(padding, length):
        if cache.page_table is not None:
            rows.append(cache.k_cache[cache.page_table[sequence, row // page_size], row % page_size])
        elif cache.cache_batch_idx is not None:
            rows.append(cache.k_cache[cache.cache_batch_idx[sequence], row])
        else:
            rows.append(cache.k_cache[sequence, row])
    return torch.stack(rows) if rows else cache.k_cache.new_empty(0, *cache.k_cache.shape[2:])


def rows_read(keys, sequence: int) -> torch.Tensor:
    """The rows of a sequence as attention takes its own arguments."""
    lengths = keys.lengths
    used = int(lengths.seqused_k[sequence])
    if lengths.page_table is not None:
        page_size = keys.k.shape[1]
        row = torch.arange(used)
        return keys.k[lengths.page_table[sequence, row // page_size].long(), row % page_size]
    if lengths.cu_seqlens_k is not None:
        start, end = (int(lengths.cu_seqlens_k[sequence + i]) for i in range(2))
        assert used <= end - start  # attention takes no more
        return keys.k[start : start + used]
    return keys.k[sequence, :used]


def index(numbers) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.int32)


@pytest.mark.parametrize("seed", range(60))
def test_attention_reads_the_rows_of_each_sequence(seed: int):
    draw = random.Random(seed)  # noqa: S311  test data, not secrets
    batch, heads, page_size, columns = draw.randint(1, 5), 2, draw.choice([1, 3, 16]), draw.randint(1, 4)
    form = draw.choice(["dense", "entries", "pages"])
    room = page_size * columns
    if form == "pages":
        cache = torch.randn(batch * columns + 3, page_size, heads, 8)
        pages = draw.sample(range(len(cache)), batch * columns)
        where = {"page_table": index(pages).view(batch, columns)}
    else:
        cache = torch.randn(batch + 2 * (form == "entries"), room, heads, 8)
        where = {"cache_batch_idx": index(draw.sample(range(len(cache)), batch))} if form == "entries" else {}
    lengths = [draw.randint(0, room) for _ in range(batch)]
    padded = draw.random() < 0.7
    leftpad = index([draw.randint(0, length) for length in lengths]) if padded else None
    given = Cache(cache, cache, cache_leftpad=leftpad, **where)
    keys = place_keys(given, index(lengths), batch)
    assert keys.k.data_ptr() == cache.data_ptr()  # no copy
    for sequence, length in enumerate(lengths):
        assert torch.equal(rows_read(keys, sequence), rows_of(given, sequence, length))


def test_lengths_and_padding_beyond_the_cache_read_nothing_else():
    cache = torch.randn(3, 10, 2, 8)
    given = Cache(cache, cache, cache_leftpad=index([-4, 12, 3]))
    keys = place_keys(given, index([30, 5, 99]), 3)
    assert keys.lengths.cu_seqlens_k.tolist() == [0, 20, 23, 30]
    assert keys.lengths.seqused_k.tolist() == [10, 0, 7]
