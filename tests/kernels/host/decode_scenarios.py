"""What `test_host_driver.py` runs beside `scenarios.py`: few query rows over many keys."""

from __future__ import annotations

import ctypes
import sys
from itertools import pairwise
from typing import TYPE_CHECKING

from tests.kernels.host.host_api import (
    FP16,
    INDEX,
    INVALID_ARGUMENT,
    KERNELS,
    OK,
    PORTABLE,
    Api,
    FwdArgs,
    Kernel,
    fwd_args,
    pack_bytes,
)
from tests.kernels.host.scenarios import run_scenario

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.kernels.host.fake_driver import DecodeParams, FakeDriver

WORKSPACE = 0x90000
SMALL, LARGE = (
    Kernel(
        f"decode_sm90_bf16_d{head_dim}",
        op="decode",
        mask="any",
        code=PORTABLE,
        head_dim=head_dim,
        head_dim_v=head_dim,
        tile_m=16,
        tile_n=64,
        threads=128,
        smem_bytes=100_000,
        blocks_per_sm=2,
    )
    for head_dim in (64, 128)
)
SCENARIOS: dict[str, Callable[..., None]] = {}


def scenario(function: Callable[..., None]) -> Callable[..., None]:
    def with_decode(api: Api, fake: FakeDriver, pack: Path) -> None:
        pack.write_bytes(pack_bytes((*KERNELS, LARGE, SMALL)))
        fake.setup(capability=90)
        assert api.set_pack(pack) == (OK, "")
        function(*(api, fake)[: function.__code__.co_argcount])

    SCENARIOS[function.__name__] = with_decode
    return function


def workspace(api: Api, args: FwdArgs) -> int:
    size = ctypes.c_size_t(77)
    status, message = api.call("fa3_fwd_workspace", ctypes.byref(args), ctypes.byref(size))
    assert status == OK, message
    return size.value


def decode_args(*shape: int, **changes: object) -> FwdArgs:
    """A valid call with a workspace. `shape`: batch, seqlen_q, seqlen_k, heads, heads_k, head_dim."""
    return fwd_args(*shape, **{"workspace": WORKSPACE, "workspace_size": 1 << 40, **changes})


def launch(api: Api, fake: FakeDriver, args: FwdArgs, kernel: Kernel = LARGE) -> DecodeParams:
    before = fake.launch_count
    assert api.fwd(args) == (OK, "")
    assert fake.launch_count == before + 1
    assert fake.kernel(fake.last_launch) == kernel.name
    assert api.fwd_kernel(args) == (OK, "", kernel.name)
    return fake.last_launch.decode_params


@scenario
def a_launch_carries_the_call(api: Api, fake: FakeDriver) -> None:
    args = decode_args(
        *(3, 2, 5000, 12, 3, 128), stream=7, softmax_scale=-0.5, causal=1, seqused_k=INDEX, sink=INDEX + 64
    )
    params = launch(api, fake, args)
    done = fake.last_launch
    assert (tuple(done.block), done.shared_bytes, done.stream) == ((128, 1, 1), LARGE.smem_bytes, 7)
    assert [operand.data for operand in (params.q, params.k, params.v, params.out)] == [
        *(0x10000, 0x20000, 0x30000, 0x40000)
    ]
    assert (params.lse.data, params.sink, params.seqused_k) == (0x50000, INDEX + 64, INDEX)
    assert (params.window_left, params.window_right) == (-1, 0)
    assert (params.batch, params.heads_q, params.heads_kv, params.seqlen_q, params.seqlen_k) == (
        3,
        12,
        3,
        2,
        5000,
    )
    assert (params.pack_gqa, params.tiles_m) == (4, 1)
    partial = params.partial
    assert (partial.parts, partial.rows, partial.slots) == (43, 8, 9)  # 128 parts for 3 heads; 3 x 3 units
    assert done.grid[0] == min(2 * 132, 9 * 43)
    assert partial.out == WORKSPACE
    assert partial.sums == WORKSPACE + 9 * 43 * 8 * 128 * 4


@scenario
def the_workspace_is_measured_and_checked(api: Api, fake: FakeDriver) -> None:
    shape = (3, 2, 5000, 12, 3, 128)
    size = workspace(api, fwd_args(*shape))
    rows = 9 * 43 * 8  # of 9 units in 43 parts
    assert size == rows * 128 * 4 + -(-rows * 2 * 4 // 128) * 128
    launch(api, fake, decode_args(*shape, workspace_size=size))
    assert fake.last_launch.decode_params.partial.out == WORKSPACE
    status, message = api.fwd(decode_args(*shape, workspace_size=size - 1))
    assert status == INVALID_ARGUMENT
    assert message == f"workspace has {size - 1} bytes at 0x90000; it should have {size}"


@scenario
def short_keys_have_few_parts(api: Api, fake: FakeDriver) -> None:
    """More parts than steps are never used; the same part is computed whatever room a cache has."""
    for seqlen_k, parts in ((0, 1), (64, 1), (65, 2), (1000, 16), (64 * 128, 128), (10**6, 128)):
        assert launch(api, fake, decode_args(1, 1, seqlen_k, 4, 1)).partial.parts == parts


@scenario
def other_calls_take_the_forward_kernels(api: Api, fake: FakeDriver) -> None:
    few = (2, 1, 5000, 4, 2)
    assert api.fwd_kernel(fwd_args(*few)) == (OK, "", KERNELS[0].name)  # no workspace
    others = (
        decode_args(2, 17, 5000, 2, 2),  # 17 rows
        decode_args(2, 5, 5000, 8, 2),  # 20 rows
        decode_args(*few, cu_seqlens_q=INDEX, max_seqlen_q=1),
        decode_args(*few, seqused_q=INDEX),
        decode_args(*few, dtype=FP16),
    )
    for args in others:
        if args.cu_seqlens_q:
            for tensor in (args.q, args.out):
                tensor.shape[0], tensor.stride[0] = 1, 0
        assert workspace(api, args) == 0
        status, message, name = api.fwd_kernel(args)
        assert (status, message) == (OK, "")
        assert not name.startswith("decode")
    assert api.allow_kernels(7, 100) == (OK, "")
    assert api.fwd_kernel(decode_args(*few)) == (OK, "", KERNELS[0].name)  # as if q were long
    assert api.allow_kernels(1, 0) == (OK, "")
    assert api.fwd_kernel(decode_args(*few)) == (OK, "", KERNELS[0].name)  # decode kernels are portable
    assert api.allow_kernels(7, 0) == (OK, "")
    launch(api, fake, decode_args(*few))


@scenario
def the_smallest_kernel_serves(api: Api, fake: FakeDriver) -> None:
    assert launch(api, fake, decode_args(1, 1, 500, 4, 4, 64), SMALL).head_dim == 64
    assert launch(api, fake, decode_args(1, 1, 500, 4, 4, 40, 72), LARGE).head_dim_v == 72
    assert launch(api, fake, decode_args(1, 1, 500, 4, 4, 80, 16), LARGE).head_dim == 80


@scenario
def a_large_batch_has_a_slot_for_each_block(api: Api, fake: FakeDriver) -> None:
    partial = launch(api, fake, decode_args(500, 1, 9000, 8, 8)).partial
    assert (fake.last_launch.grid[0], partial.slots) == (264, 264)
    spared = launch(api, fake, decode_args(500, 1, 9000, 8, 8, sm_margin=100)).partial
    assert (fake.last_launch.grid[0], spared.slots, spared.parts) == (64, 64, partial.parts)


@scenario
def counters_belong_to_a_stream_and_to_a_captured_launch(api: Api, fake: FakeDriver) -> None:
    def counters(stream: int) -> int:
        return launch(api, fake, decode_args(1, 1, 500, 4, 2, stream=stream)).partial.arrived

    first, other = counters(5), counters(6)
    assert first != other
    assert (counters(5), counters(6)) == (first, other)
    assert all((ctypes.c_uint32 * 1024).from_address(address)[:] == [0] * 1024 for address in (first, other))
    fake.capture(5, True)
    captured = [counters(5) for _ in range(40)]  # more than one allocation holds
    assert len({first, other, *captured}) == 42
    assert all(abs(a - b) >= 4096 for a, b in pairwise(captured))
    fake.capture(5, False)
    assert counters(5) == first


if __name__ == "__main__":
    run_scenario(SCENARIOS[sys.argv[1]], *sys.argv[2:])
