"""What `test_host_driver.py` runs beside `scenarios.py`: how work is cut into tiles, and in which order."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from tests.kernels.host.host_api import (
    INVALID_ARGUMENT,
    KERNELS,
    LOCAL,
    Api,
    Kernel,
    fwd_args,
    portable,
    tensor,
)
from tests.kernels.host.scenarios import launch, run_scenario, use

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.kernels.host.fake_driver import FakeDriver

MULTIPROCESSORS = 132  # of the fake device
L2_BYTES = 50 * 2**20  # of the device that it stands for
TILE_M = KERNELS[0].tile_m
BYTES_PER_KEY = (128 + 128) * 2  # with its value
SHORT, LONG = (128, 256, 512, 1024), (1025, 2048, 4096, 8192, 2**15)

# Windows and chunks that give every tile of a head as much work as another, but for the first and the last.
ALIKE = (
    {},
    {"softcap": 2.0},
    {"window_left": 100},
    {"window_left": 100, "causal": 1},
    {"window_left": 100, "window_right": 100},
    {"attention_chunk": 64},
    {"attention_chunk": 64, "causal": 1},
)
# And those under which a later tile sees more keys.
GROWING = ({"causal": 1}, {"window_right": 100}, {"causal": 1, "softcap": 2.0})

SCENARIOS: dict[str, Callable[..., None]] = {}


def scenario(function: Callable[..., None]) -> Callable[..., None]:
    SCENARIOS[function.__name__] = function
    return function


@scenario
def too_many_tiles_are_refused(api: Api, fake: FakeDriver) -> None:
    args = fwd_args(1, 2**31 - 1, 64, 129, 129)
    status, message = api.fwd(args)
    assert status == INVALID_ARGUMENT
    assert message.startswith("q has batch 1, seqlen 2147483647 and 129 heads")
    assert launch(api, fake, fwd_args(1, 2**31 - 1, 64, 127, 127)).params.count == 2**24 * 127


def key_heads_in_a_section(
    api: Api, fake: FakeDriver, seqlen: int, heads: tuple[int, int, int] = (1, 512, 1), **mask: object
) -> int:
    """How many have their tiles before those of all others, of (batch, key heads, query heads of each)."""
    batch, heads_k, group = heads
    args = fwd_args(batch, seqlen, seqlen, heads_k * group, heads_k, **mask)
    params = launch(api, fake, args).params
    tiles_per_key_head = group // params.pack_gqa * params.value_slices
    assert params.l2_heads % tiles_per_key_head == 0
    return params.l2_heads // tiles_per_key_head


@scenario
def alike_tiles_go_head_by_head(api: Api, fake: FakeDriver, pack: Path) -> None:
    """Those of one key head run at the same time, and read its keys together."""
    use(api, pack, (*KERNELS, LOCAL))
    for mask in ALIKE:
        for seqlen in (200, 1024, 4096, 2**17):
            for heads in ((1, 1, 1), (4, 16, 1), (2, 8, 4), (1, 2, 7)):
                assert key_heads_in_a_section(api, fake, seqlen, heads, **mask) == 1
    assert key_heads_in_a_section(api, fake, 1, causal=1) == 1  # one query sees every key


@scenario
def the_longest_tiles_of_several_heads_go_first(api: Api, fake: FakeDriver, pack: Path) -> None:
    """Of as many heads as keep the device busy, while the L2 holds their keys and values."""
    use(api, pack, (*KERNELS, LOCAL))
    for mask in GROWING:
        shares = []
        for seqlens in (SHORT, LONG):
            heads = [key_heads_in_a_section(api, fake, seqlen, **mask) for seqlen in seqlens]
            assert heads == sorted(heads, reverse=True)
            for seqlen, number in zip(seqlens, heads, strict=True):
                assert number * -(-seqlen // TILE_M) >= MULTIPROCESSORS
            bytes_held = [
                number * seqlen * BYTES_PER_KEY for seqlen, number in zip(seqlens, heads, strict=True)
            ]
            assert max(bytes_held) < L2_BYTES
            shares.append((min(bytes_held), max(bytes_held)))
        (_, most_of_short), (least_of_long, _) = shares
        assert most_of_short < least_of_long
        assert key_heads_in_a_section(api, fake, 2**20, **mask) == 1  # more than the L2 can hold

        fitting = key_heads_in_a_section(api, fake, 4096, **mask)
        for batch, heads_k, group in ((1, 64, 1), (64, 1, 1), (8, 8, 3), (8, 8, 4), (2, 3, 1), (1, 1, 2)):
            found = key_heads_in_a_section(api, fake, 4096, (batch, heads_k, group), **mask)
            assert found == min(fitting, batch * heads_k)
    args = fwd_args(3, 128, 0, 8, 2, causal=1)
    assert launch(api, fake, args).params.l2_heads == 3 * 8  # there are no keys to hold


@scenario
def no_section_is_short(api: Api, fake: FakeDriver, pack: Path) -> None:
    """The tiles of a short last one would be long ones, with little to run beside them."""
    use(api, pack, (*KERNELS, LOCAL))
    fitting = key_heads_in_a_section(api, fake, 4096, (1, 1024, 1), causal=1)
    for batch in (1, 2, 3):
        for heads in range(1, 200):
            number = key_heads_in_a_section(api, fake, 4096, (batch, heads, 1), causal=1)
            short = batch * heads % number
            even = [size for size in range(fitting // 2 + 1, fitting + 1) if batch * heads % size == 0]
            assert number == (max(even) if even else min(fitting, batch * heads))
            assert short == 0 or not even


@scenario
def values_are_cut_into_slices(api: Api, fake: FakeDriver, pack: Path) -> None:
    use(api, pack, (portable("wide", sm=90, head_dim=64, head_dim_v=512, value_slices=2),))
    for head_dim_v, slices in ((8, 1), (256, 1), (264, 2), (512, 2)):
        done = launch(api, fake, fwd_args(2, 100, 384, 4, 4, 64, head_dim_v))
        assert (done.params.value_slices, done.params.tiles_m) == (slices, 2)
        assert done.params.count == done.grid[0] == 2 * 4 * 2 * slices
        assert done.params.l2_heads == slices
    args = fwd_args(2, 128, 384, 8, 2, 64, 512, causal=1)
    assert launch(api, fake, args).params.l2_heads == 2 * 2 * 4 * 2  # all key heads, query heads and slices


def heads_per_tile(api: Api, fake: FakeDriver, seqlen_q: int, group: int, **changes: object) -> int:
    """What the launch said, after a look at what follows from it."""
    done = launch(api, fake, fwd_args(2, seqlen_q, 384, 2 * group, 2, **changes))
    params = done.params
    shared = params.pack_gqa
    assert shared in {1, group}
    assert params.count == params.tiles_m * (2 * group // shared) * 2
    assert params.l2_heads == group // shared
    return shared


@scenario
def few_queries_of_a_group_share_tiles(api: Api, fake: FakeDriver, pack: Path) -> None:
    use(api, pack, (portable("plain", sm=90),))  # tiles of 64 rows
    for seqlen_q, group in ((1, 2), (1, 7), (1, 256), (8, 8), (33, 2), (64, 3), (65, 3), (230, 10), (1, 1)):
        tiles = -(-seqlen_q * group // 64)
        pays = group > 1 and tiles <= 0.9 * group * -(-seqlen_q // 64)
        assert heads_per_tile(api, fake, seqlen_q, group) == (group if pays else 1)
    assert heads_per_tile(api, fake, 64, 8) == 1
    assert heads_per_tile(api, fake, 65, 8) == 8
    use(api, pack, (portable("plain", sm=90, packs_gqa=0),))
    assert heads_per_tile(api, fake, 1, 8) == 1


@scenario
def packed_queries_share_tiles_by_the_longest(api: Api, fake: FakeDriver, pack: Path) -> None:
    use(api, pack, (portable("plain", sm=90),))
    for longest, shared in ((1, 8), (64, 1)):
        args = fwd_args(1, 500, 384, 8, 1, cu_seqlens_q=0x60000, max_seqlen_q=longest)
        args.batch = 3
        args.k = args.v = tensor(0x20000, (3, 384, 1, 128))
        done = launch(api, fake, args)
        assert (done.params.pack_gqa, done.params.seqlen_q) == (shared, longest)
        assert done.params.count == 3 * (1 if shared == 8 else 8)


@scenario
def boxes_hold_the_heads_that_share_a_tile(api: Api, fake: FakeDriver, pack: Path) -> None:
    kernel = Kernel("shares", tile_m=192, box_rows_q=192, box_rows_out=16, packs_gqa=1)
    use(api, pack, (kernel,))
    boxes = {
        1: (1, 192, 1, 16),
        2: (2, 96, 2, 8),
        16: (16, 12, 16, 1),
        32: (32, 6, 16, 1),
        64: (64, 3, 16, 1),
    }
    for group, expected in boxes.items():
        done = launch(api, fake, fwd_args(2, 1, 384, 2 * group, 2))
        assert done.params.pack_gqa == group
        q, k, v, out = (tuple(encoded.box) for encoded in fake.encodes_of(done))
        assert (q[1], q[2], out[1], out[2]) == expected
        assert k == v == (64, 1, kernel.box_rows_kv, 1, 1)
        assert {q[0], out[0], *q[3:], *out[3:]} == {64, 1}
    # No box has so many heads, or a part of a position.
    for group in (3, 6, 12, 128):
        assert heads_per_tile(api, fake, 1, group) == 1


@scenario
def kernels_shift_by_the_heads_of_a_tile(api: Api, fake: FakeDriver, pack: Path) -> None:
    """They divide by them at every tile; a shift takes less time."""
    full = Kernel("shares", tile_m=192, box_rows_q=192, box_rows_out=16, packs_gqa=1)
    use(api, pack, (full, replace(full, name="shares_causal", mask="causal")))
    for group in (1, 2, 4, 8, 16, 32, 64):
        shared = set()
        for seqlen_q in (2, 65, 192, 1000):
            for changes in ({}, {"causal": 1}, {"seqused_q": 0x60000}):
                params = launch(api, fake, fwd_args(2, seqlen_q, 384, 2 * group, 2, **changes)).params
                assert 1 << params.pack_shift == params.pack_gqa
                assert params.l2_heads == group // params.pack_gqa * (4 if "causal" in changes else 1)
                shared.add(params.pack_gqa)
        assert shared == {1, group}


if __name__ == "__main__":
    run_scenario(SCENARIOS[sys.argv[1]], *sys.argv[2:])
