"""What calls of few query rows must do beside computing the right values."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from flash_attn3.checks.behaviour.canary import bits_of
from flash_attn3.checks.data.inputs import DTYPES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flash_attn3.checks.data.call import Forward

_LENGTHS = (0, 1, 64, 1000, 3001, 20, 511, 4096)
_ROOM = 4096
_PAGES = (1, 16, 64, 100)
_GROWN = (5, 64, 100, 1025, 4096)


def other_sequences(forward: Forward, device: torch.device) -> Iterator[str]:
    """The bits of a sequence depend on its own length alone: in a batch, alone, in pages, on fewer SMs."""
    for (name, dtype), head_dim in product(DTYPES.items(), (64, 128, 256)):
        q, k, v, lengths = _cache(dtype, head_dim, device)
        whole = _attend(forward, q, k, v, lengths)
        order = torch.randperm(len(_LENGTHS), device=device)
        for what, rows, options in (
            ("in another order", order, {}),
            ("on fewer SMs", torch.arange(len(_LENGTHS), device=device), {"sm_margin": 100}),
            *((f"alone, sequence {i}", torch.tensor([i], device=device), {}) for i in range(len(_LENGTHS))),
        ):
            found = _attend(forward, q[rows], k[rows], v[rows], lengths[rows], **options)
            if not _same(found, (whole[0][rows], whole[1][rows])):
                yield f"{name}, head_dim {head_dim}: the result differs {what}"
        for page_size in _PAGES:
            k_pages, v_pages, table = _paged(k, v, page_size, device)
            found = _attend(forward, q, k_pages, v_pages, lengths, page_table=table)
            if not _same(found, whole):
                yield f"{name}, head_dim {head_dim}: the result differs in pages of {page_size}"


def replay_at_other_lengths(forward: Forward, device: torch.device) -> Iterator[str]:
    """A captured call computes what its lengths say when it is replayed, with the bits of an eager call."""
    q, k, v, lengths = _cache(torch.bfloat16, 128, device)
    lengths.fill_(3)
    _attend(forward, q, k, v, lengths)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = _attend(forward, q, k, v, lengths)
    for length in _GROWN:
        lengths.fill_(length)
        lengths[0] = 0
        graph.replay()
        if not _same(captured, _attend(forward, q, k, v, lengths)):
            yield f"replayed at length {length}, the result differs from that of an eager call"


def many_launches(forward: Forward, device: torch.device) -> Iterator[str]:
    """A thousand launches in a row give the same bits: each leaves its counters as it found them."""
    q, k, v, lengths = _cache(torch.float16, 128, device)
    first = _attend(forward, q, k, v, lengths)
    for index in range(1000):
        if not _same(_attend(forward, q, k, v, lengths), first):
            yield f"call {index} differs from the first"
            return


def _cache(dtype: torch.dtype, head_dim: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return q, k, v and the lengths of the keys; NaN behind them."""
    generator = torch.Generator(device=device).manual_seed(head_dim)
    batch = len(_LENGTHS)
    q, k, v = (
        torch.randn(batch, rows, heads, head_dim, generator=generator, device=device).to(dtype)
        for rows, heads in ((2, 8), (_ROOM, 2), (_ROOM, 2))
    )
    lengths = torch.tensor(_LENGTHS, dtype=torch.int32, device=device)
    behind = torch.arange(_ROOM, device=device)[None, :] >= lengths[:, None]
    for rows in (k, v):
        rows[behind] = torch.nan
    return q, k, v, lengths


def _paged(k: Tensor, v: Tensor, page_size: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return the keys and values in shuffled pages, and their table."""
    batch, rows, *rest = k.shape
    pages = -(-rows // page_size)
    table = torch.randperm(batch * pages, device=device).view(batch, pages)

    def scatter(tensor: Tensor) -> Tensor:
        room = tensor.new_full((batch, pages * page_size, *rest), torch.nan)
        room[:, :rows] = tensor
        store = room.view(batch * pages, page_size, *rest)
        return torch.empty_like(store).index_copy_(0, table.flatten(), store)

    return scatter(k), scatter(v), table.int()


def _attend(
    forward: Forward, q: Tensor, k: Tensor, v: Tensor, lengths: Tensor, **options: Tensor | int
) -> tuple[Tensor, Tensor]:
    return forward(q, k, v, None, True, seqused_k=lengths, max_seqlen_k=k.shape[1], **options)


def _same(found: tuple[Tensor, Tensor], wanted: tuple[Tensor, Tensor]) -> bool:
    return all(torch.equal(bits_of(a), bits_of(b)) for a, b in zip(found, wanted, strict=True))
