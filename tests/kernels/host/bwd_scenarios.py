"""What `test_host_driver.py` runs beside `scenarios.py`: the launches of the backward pass."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from tests.kernels.host.bwd_api import (
    BLOCKS,
    ENDS,
    FINISH,
    MAIN,
    PERSISTENT,
    PREPARE,
    QUERIES,
    WIDE,
    WIDE_QUERIES,
    bwd,
    bwd_args,
    bwd_kernel,
    workspace_size,
)
from tests.kernels.host.host_api import BAD_PACK, INVALID_ARGUMENT, KERNELS, OK, Api, pack_bytes, tensor
from tests.kernels.host.scenarios import run_scenario

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.kernels.host.bwd_api import BwdArgs
    from tests.kernels.host.fake_driver import BwdParams, FakeDriver, Launch

MULTIPROCESSORS = 132  # of the fake device
SCENARIOS: dict[str, Callable[..., None]] = {}


def scenario(function: Callable[..., None]) -> Callable[..., None]:
    def with_backward(api: Api, fake: FakeDriver, pack: Path) -> None:
        pack.write_bytes(pack_bytes((*KERNELS, BLOCKS, *ENDS, PERSISTENT, WIDE, WIDE_QUERIES)))
        assert api.set_pack(pack) == (OK, "")
        function(*(api, fake, pack)[: function.__code__.co_argcount])

    SCENARIOS[function.__name__] = with_backward
    return function


def launches(api: Api, fake: FakeDriver, args: BwdArgs) -> list[Launch]:
    before = fake.launch_count
    status, message = bwd(api, args)
    assert status == OK, message
    return fake.launches[before:]


def main_params(api: Api, fake: FakeDriver, args: BwdArgs) -> BwdParams:
    return launches(api, fake, args)[MAIN].bwd_params


def pairs_together(
    api: Api, fake: FakeDriver, seqlen: int, batch: int = 64, heads_k: int = 64, **changes: object
) -> int:
    shape = (batch, seqlen, seqlen, heads_k, heads_k)
    return main_params(api, fake, bwd_args(shape, **changes)).l2_heads


@scenario
def three_launches_share_their_parameters(api: Api, fake: FakeDriver) -> None:
    args = bwd_args((2, 300, 500, 6, 2), stream=5, device=1, sink=0x160000, dsink=0x170000)
    done = launches(api, fake, args)
    names = ["bwd_prepare_sm90_bf16", PERSISTENT.name, "bwd_finish_sm90_bf16"]
    assert [fake.kernel(each) for each in done] == names
    assert [bwd_kernel(api, args, launch)[2] for launch in (PREPARE, MAIN, FINISH)] == names
    query_tiles = 2 * 6 * 5  # of 64 rows
    assert [each.grid[0] for each in done] == [query_tiles, 2 * 2 * 4, query_tiles + 6]  # a block a sink
    assert {each.stream for each in done} == {5}
    assert {each.overlaps_previous for each in done} == {0}
    assert len({bytes(each.bwd_params) for each in done}) == 1
    params = done[MAIN].bwd_params
    operands = ("q", "k", "v", "out", "dout", "dq", "dk", "dv")
    assert [getattr(params, name).data for name in operands] == [0x10000 * n for n in range(1, 9)]
    assert (params.lse.data, params.dlse.data, params.sink, params.dsink) == (0x150000, 0, 0x160000, 0x170000)
    assert (params.tiles_m, params.tiles_n, params.tail_blocks) == (5, 4, 0)
    workspace = params.workspace
    assert (workspace.tiles, workspace.tile_m, workspace.tile_n) == (10, 64, 128)
    assert (workspace.columns_q, workspace.lane_floats) == (128, 4)
    assert fake.calls("cuTensorMapEncodeTiled") == 4


@scenario
def the_workspace_holds_what_is_stated(api: Api, fake: FakeDriver) -> None:
    rows = 2 * 4 * 256
    for changes, others in (
        ({}, 0),
        ({"sink": 0x160000, "dsink": 0x170000}, 4 * 2 * 4 * 4),
        ({"deterministic": 1}, 4 * 2 * 4 * 4),
    ):
        args = bwd_args(**changes)
        size = workspace_size(api, args)
        stated = rows * (128 + 2) * 4 + others
        assert stated <= size <= stated + 4 * 128  # each part starts at a multiple of 128 bytes
        workspace = main_params(api, fake, args).workspace
        places = [workspace.dq, workspace.lse_log2, workspace.minus_delta]
        places += [place for place in (workspace.sink_partials, workspace.turns) if place]
        assert places == sorted(set(places))
        assert all(0x800000 <= place < 0x800000 + size and place % 128 == 0 for place in places)
        assert (workspace.turns != 0) == ("deterministic" in changes)
        args.workspace_size = size - 1
        status, message = bwd(api, args)
        assert status == INVALID_ARGUMENT
        assert str(size) in message


@scenario
def a_persistent_kernel_takes_its_tiles_from_a_queue(api: Api, fake: FakeDriver) -> None:
    many = (3, 1024, 1024, 32, 32)
    for margin in (0, 32):
        main = launches(api, fake, bwd_args(many, sm_margin=margin))[MAIN]
        assert main.grid[0] == MULTIPROCESSORS - margin
        assert main.bwd_params.queue != 0
    few = launches(api, fake, bwd_args((1, 128, 128, 3, 3)))[MAIN]
    assert few.grid[0] == 3
    assert few.bwd_params.queue == main.bwd_params.queue  # that of the stream


@scenario
def wide_heads_have_a_launch_for_the_queries(api: Api, fake: FakeDriver, pack: Path) -> None:
    """It computes dq: there are no sums, no turns, and nothing to finish but sinks and unused rows."""
    args = bwd_args((2, 300, 500, 6, 2), 256, deterministic=1)
    done = launches(api, fake, args)
    names = ["bwd_prepare_sm90_bf16", WIDE.name, WIDE_QUERIES.name]
    assert [fake.kernel(each) for each in done] == names
    found = [bwd_kernel(api, args, launch)[2] for launch in (PREPARE, MAIN, QUERIES, FINISH)]
    assert found == [*names, "bwd_finish_sm90_bf16"]
    assert [each.grid[0] for each in done] == [2 * 6 * 5, 2 * 2 * 8, 2 * 6 * 3]
    params = done[MAIN].bwd_params
    assert bytes(params) == bytes(done[QUERIES].bwd_params)
    assert (params.workspace.dq, params.workspace.turns, params.workspace.columns_q) == (0, 0, 0)
    rows = 2 * 6 * 5 * 64
    assert rows * 2 * 4 <= workspace_size(api, args) <= rows * 2 * 4 + 2 * 128
    args.sink, args.dsink = 0x160000, 0x170000
    finish = launches(api, fake, args)[FINISH]
    assert (fake.kernel(finish), finish.grid[0]) == ("bwd_finish_sm90_bf16", 6)
    pack.write_bytes(pack_bytes((*ENDS, WIDE)))
    assert api.set_pack(pack) == (OK, "")
    status, message = bwd(api, args)
    assert status == BAD_PACK
    assert message == f"kernel {WIDE.name} of the pack computes no dq, and no other does"


@scenario
def other_kernels_have_a_block_a_tile(api: Api, fake: FakeDriver) -> None:
    fake.setup(capability=86)
    done = launches(api, fake, bwd_args((3, 1024, 1024, 32, 32), sm_margin=32))
    assert fake.kernel(done[MAIN]) == BLOCKS.name
    assert done[MAIN].grid[0] == 3 * 32 * 16
    params = done[MAIN].bwd_params
    assert (params.queue, params.workspace.tile_n, params.workspace.lane_floats) == (0, 64, 1)
    assert fake.calls("cuTensorMapEncodeTiled") == 0


@scenario
def pairs_are_together_as_far_as_a_wave_of_blocks_goes(api: Api, fake: FakeDriver) -> None:
    """So that what their blocks share stays in the L2: whether the GPU has more or fewer of them."""
    for seqlen in (128, 512, 4096, 2**15):
        tiles = -(-seqlen // 128)
        full = pairs_together(api, fake, seqlen)
        assert full == max(1, MULTIPROCESSORS // tiles)
        assert pairs_together(api, fake, seqlen, window_left=100) == full
        assert pairs_together(api, fake, seqlen, causal=1, window_left=100) == full
        assert pairs_together(api, fake, seqlen, attention_chunk=1000) == full
        assert pairs_together(api, fake, seqlen, causal=1, attention_chunk=1000) == full
        causal = pairs_together(api, fake, seqlen, causal=1)
        assert causal == pairs_together(api, fake, seqlen, window_right=5)
        assert causal == max(1, min(8 * (MULTIPROCESSORS // tiles), MULTIPROCESSORS // 4))
        assert pairs_together(api, fake, seqlen, deterministic=1) == MULTIPROCESSORS // 4
        assert pairs_together(api, fake, seqlen, causal=1, deterministic=1) == MULTIPROCESSORS // 2
        assert pairs_together(api, fake, seqlen, 1, 1) == 1
        assert pairs_together(api, fake, seqlen, 1, 5, deterministic=1) == 5
    fake.setup(capability=86)  # two blocks of 64 keys run on a multiprocessor at once
    assert pairs_together(api, fake, 512) == 2 * MULTIPROCESSORS // 8


@scenario
def nothing_to_compute_names_no_kernel(api: Api, fake: FakeDriver) -> None:
    args = bwd_args((0, 256, 384, 4, 2))
    assert launches(api, fake, args) == []
    assert bwd_kernel(api, args, MAIN) == (OK, "", "")
    assert bwd_kernel(api, bwd_args(), 4) == (INVALID_ARGUMENT, "launch is 4; it should be 0, 1, 2 or 3", "")


@scenario
def gradients_are_checked(api: Api, fake: FakeDriver) -> None:
    for name, wrong, message in (
        ("dq", tensor(0x60000, (2, 255, 4, 128)), "dq has seqlen 255"),
        ("dk", tensor(0x70000, (2, 384, 4, 128)), "dk has heads 4"),
        ("dout", tensor(0x50000, (2, 256, 4, 64)), "dout has head_dim 64"),
    ):
        status, found = bwd(api, bwd_args(**{name: wrong}))
        assert status == INVALID_ARGUMENT
        assert message in found, found
    assert fake.launch_count == 0


if __name__ == "__main__":
    run_scenario(SCENARIOS[sys.argv[1]], *sys.argv[2:])
