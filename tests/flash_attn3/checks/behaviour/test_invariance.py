from __future__ import annotations

import pytest
import torch

from flash_attn3.checks.behaviour import invariance
from tests.flash_attn3.tiled_attention import TiledAttention

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _few(monkeypatch):
    monkeypatch.setattr(invariance, "NATIVE", ((16, 8),))
    monkeypatch.setattr(invariance, "_MASKS", invariance._MASKS[1:3])
    monkeypatch.setattr(invariance, "_LENGTHS_Q", (13, 0, 1, 25, 38, 30))
    monkeypatch.setattr(invariance, "_LENGTHS_K", (20, 7, 51, 30, 0, 12))


def test_a_kernel_that_takes_each_sequence_alone_passes():
    assert list(invariance.varying_batches(TiledAttention(), CPU)) == []


@pytest.mark.parametrize("mistake", ["reads_longest", "masks_by_longest", "pages_in_order"])
def test_a_kernel_that_looks_at_the_batch_fails(mistake):
    assert list(invariance.varying_batches(TiledAttention(**{mistake: True}), CPU))


def test_the_last_bit_counts():
    def forward(q, *arguments, **options):
        out, lse = TiledAttention()(q, *arguments, **options)
        return out, torch.nextafter(lse, lse + 1) if q.shape[0] == 30 else lse

    found = list(invariance.varying_batches(forward, CPU))
    assert found
    assert all("sequence 5 differs" in text for text in found)


def test_a_kernel_that_looks_at_the_bound_of_the_lengths_fails():
    def forward(q, *arguments, **options):
        out, lse = TiledAttention()(q, *arguments, **options)
        return out, torch.nextafter(lse, lse + 1) if options.get("max_seqlen_q", 0) > 38 else lse

    found = list(invariance.varying_batches(forward, CPU))
    assert found
    assert all("differs with a longer bound of the lengths" in text for text in found)


@pytest.mark.parametrize("check", ["varying_batches_of_outrunning_rows", "rows_beside_outrunning_ones"])
def test_a_kernel_that_takes_each_row_alone_passes(check):
    assert list(getattr(invariance, check)(TiledAttention(), CPU)) == []


def test_a_kernel_that_lets_few_rows_change_the_others_fails():
    def forward(q, *arguments, **options):
        out, lse = TiledAttention()(q, *arguments, **options)
        return out, torch.nextafter(lse, lse + 1) if (q[..., 0] > 7).any() else lse

    found = list(invariance.rows_beside_outrunning_ones(forward, CPU))
    assert len(found) == len(invariance._MASKS) * len(invariance._SHARED_TILES)
