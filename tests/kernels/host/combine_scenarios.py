"""What `test_host_driver.py` runs beside `scenarios.py`: joining the parts of an attention."""

from __future__ import annotations

import ctypes
import sys
from typing import TYPE_CHECKING

from tests.kernels.host.host_api import (
    COMBINE,
    FP16,
    FP32,
    INVALID_ARGUMENT,
    KERNELS,
    OK,
    UNSUPPORTED,
    Api,
    combine_args,
    pack_bytes,
    tensor,
)
from tests.kernels.host.scenarios import run_scenario

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.kernels.host.fake_driver import FakeDriver

SCENARIOS: dict[str, Callable[..., None]] = {}


def scenario(function: Callable[..., None]) -> Callable[..., None]:
    def with_combine(api: Api, fake: FakeDriver, pack: Path) -> None:
        pack.write_bytes(pack_bytes((*KERNELS, COMBINE)))
        fake.setup(capability=86)
        assert api.set_pack(pack) == (OK, "")
        function(*(api, fake, pack)[: function.__code__.co_argcount])

    SCENARIOS[function.__name__] = with_combine
    return function


@scenario
def a_launch_carries_the_parts(api: Api, fake: FakeDriver) -> None:
    args = combine_args(7, (2, 300, 4, 96), dtype=FP16, stream=5, device=1)
    args.out_partial.stride[:] = (10**7, 1000, 250, 1)
    args.out_partial_stride = 10**8
    args.out.stride[:] = (90_001, 100, 30_000, 1)
    args.lse_partial_stride = (ctypes.c_int64 * 3)(5000, 2500, 601)
    assert api.combine(args) == (OK, "")
    done = fake.last_launch
    assert fake.kernel(done) == COMBINE.name
    assert tuple(done.grid) == (150, 1, 1)  # 2 * 300 * 4 rows, 16 a block
    assert (tuple(done.block), done.shared_bytes, done.stream) == ((COMBINE.threads, 1, 1), 0, 5)
    assert done.context == 0x1001
    params = done.combine_params
    assert params.out_partial == 0x10000
    strides = ("split", "batch", "row", "head")
    found = [getattr(params, f"out_partial_stride_{name}") for name in strides]
    assert found == [10**8, 10**7, 1000, 250]
    assert params.lse_partial == 0x20000
    lse_strides = ("split", "batch", "head")
    assert [getattr(params, f"lse_partial_stride_{name}") for name in lse_strides] == [5000, 2500, 601]
    out = params.out
    assert (out.data, out.stride_batch, out.stride_row, out.stride_head) == (0x30000, 90_001, 100, 30_000)
    assert (params.lse.data, params.lse.stride_batch, params.lse.stride_head) == (0x40000, 1200, 300)
    assert (params.splits, params.batch, params.seqlen, params.heads) == (7, 2, 300, 4)
    assert (params.head_dim_v, params.out_dtype) == (96, FP16)


@scenario
def every_size_is_served(api: Api, fake: FakeDriver) -> None:
    for splits, head_dim, rows in ((1, 1, 1), (256, 512, 17), (2, 59, 16)):
        assert api.combine(combine_args(splits, (1, rows, 1, head_dim), dtype=FP32)) == (OK, "")
        assert fake.last_launch.grid[0] == -(-rows // 16)
        params = fake.last_launch.combine_params
        assert (params.splits, params.head_dim_v, params.out_dtype) == (splits, head_dim, FP32)


@scenario
def nothing_to_join_needs_no_driver(api: Api, fake: FakeDriver) -> None:
    for shape in ((0, 5, 2, 64), (2, 0, 2, 64), (2, 5, 0, 64)):
        args = combine_args(3, shape)
        args.out_partial.data = args.out.data = args.lse_partial = args.lse = None
        assert api.combine(args) == (OK, "")
    assert fake.calls("cuInit") == 0


@scenario
def a_build_without_the_kernel_says_so(api: Api, fake: FakeDriver, pack: Path) -> None:
    fake.setup(capability=90)
    pack.write_bytes(pack_bytes(KERNELS))
    assert api.set_pack(pack) == (OK, "")
    assert api.combine(combine_args()) == (
        UNSUPPORTED,
        "no combine kernel for sm_90; this build holds sm_90a (3 fwd)",
    )


@scenario
def too_many_rows_are_refused(api: Api) -> None:
    most = 16 * (2**31 - 1)
    args = combine_args(1, (17, 2**31 - 1, 1, 8))
    assert api.combine(args) == (
        INVALID_ARGUMENT,
        f"out has 17 x 2147483647 x 1 rows; it should have at most {most}",
    )
    assert api.combine(combine_args(1, (16, 2**31 - 1, 1, 8))) == (OK, "")


@scenario
def arguments_are_checked(api: Api) -> None:
    shape = (2, 256, 4, 128)
    size = ctypes.sizeof(combine_args())
    strided = tensor(0x10000, shape, (2**18, 1024, 256, 2))
    cases = {
        f"args.struct_size is 4; it should be the size of fa3_combine_args, here {size}": {"struct_size": 4},
        "out_partial has 0 splits; it should have 1 to 256": {"splits": 0},
        "out_partial has 257 splits; it should have 1 to 256": {"splits": 257},
        "out_dtype is 3; it should be 0 (fp16), 1 (bf16) or 2 (fp32)": {"dtype": 3},
        "out_dtype is -1; it should be 0 (fp16), 1 (bf16) or 2 (fp32)": {"dtype": -1},
        "out_partial has seqlen -1; it should be between 0 and 2147483647": {
            "out_partial": tensor(0x10000, (2, -1, 4, 128))
        },
        "out_partial has head_dim 0; it should be positive": {"out_partial": tensor(0x10000, (2, 5, 4, 0))},
        "out_partial has head_dim 513; it should be at most 512": {
            "out_partial": tensor(0x10000, (2, 5, 4, 513))
        },
        "out has heads 3; it should be 4, as in out_partial": {"out": tensor(0x30000, (2, 256, 3, 128))},
        "out_partial has stride 2 in its head_dim dimension; it should be 1": {"out_partial": strided},
        "out has stride 2 in its head_dim dimension; it should be 1": {"out": strided},
        "out has stride 0 in its heads dimension; it should have room for every element": {
            "out": tensor(0x30000, shape, (2**18, 1024, 0, 1))
        },
        "out_partial.data is 0x10002; it should be a 4-byte aligned device address": {
            "out_partial": tensor(0x10002, shape)
        },
        "out.data is 0x30001; it should be a 2-byte aligned device address": {"out": tensor(0x30001, shape)},
        "lse_partial is 0x2; it should be a 4-byte aligned device address": {"lse_partial": 2},
        "lse is 0x2; it should be a 4-byte aligned device address": {"lse": 2},
    }
    for message, changes in cases.items():
        assert api.combine(combine_args(**changes)) == (INVALID_ARGUMENT, message)
    assert api.combine(combine_args(dtype=FP32, out=tensor(0x30002, shape)))[1].startswith("out.data is")
    assert api.call("fa3_combine", None) == (
        INVALID_ARGUMENT,
        "args is null; it should point to fa3_combine_args",
    )


if __name__ == "__main__":
    run_scenario(SCENARIOS[sys.argv[1]], *sys.argv[2:])
