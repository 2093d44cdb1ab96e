"""Scenarios of `new_operator.cpp`, an operator that was added to the runtime as one file.

Its calls launch two kernels, the second of which overlaps the first, over a workspace of the caller.
"""

from __future__ import annotations

import ctypes
import sys
from typing import TYPE_CHECKING

from tests.kernels.host.host_api import (
    DRIVER_ERROR,
    INVALID_ARGUMENT,
    KERNELS,
    OK,
    UNSUPPORTED,
    Api,
    Kernel,
    Tensor,
    fwd_args,
    tensor,
)
from tests.kernels.host.scenarios import launch, run_scenario, use

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.kernels.host.fake_driver import FakeDriver, Launch

PART = Kernel("new_part_d128", op="new_part", dynamic=0, blocks_per_sm=2, head_dim_v=0)
JOIN = Kernel("new_join_d128", op="new_join", threads=64, smem_bytes=1024, head_dim_v=0)
MEMORY = 0x100000

SCENARIOS: dict[str, Callable[..., None]] = {}


class NewArgs(ctypes.Structure):
    _fields_ = (
        ("struct_size", ctypes.c_uint32),
        ("device", ctypes.c_int32),
        ("stream", ctypes.c_void_p),
        ("x", Tensor),
        ("workspace", ctypes.c_void_p),
        ("workspace_size", ctypes.c_size_t),
    )


def scenario(function: Callable[..., None]) -> Callable[..., None]:
    SCENARIOS[function.__name__] = function
    return function


def new_args(**changes: object) -> NewArgs:
    args = NewArgs(
        struct_size=ctypes.sizeof(NewArgs),
        stream=7,
        x=tensor(0x10000, (2, 1000, 3, 128)),
        workspace=MEMORY,
        workspace_size=1 << 20,
    )
    for name, value in changes.items():
        setattr(args, name, value)
    return args


def call(api: Api, **changes: object) -> tuple[int, str]:
    return api.call("fa3_new", ctypes.byref(new_args(**changes)))


def workspace_size(api: Api) -> int:
    size = ctypes.c_size_t()
    assert api.call("fa3_new_workspace", ctypes.byref(new_args()), ctypes.byref(size)) == (OK, "")
    return size.value


def pointers(done: Launch) -> tuple[int, int]:
    """The sums and the rows, behind the operand of 32 bytes."""
    words = (ctypes.c_uint64 * 6).from_buffer(done.params)
    return words[4], words[5]


@scenario
def two_kernels_are_launched_in_order(api: Api, fake: FakeDriver, pack: Path) -> None:
    use(api, pack, (PART, JOIN, *KERNELS))
    assert call(api) == (OK, "")
    part, join = fake.launches
    assert [fake.kernel(part), fake.kernel(join)] == [PART.name, JOIN.name]
    assert [tuple(done.grid) for done in (part, join)] == [(2 * 132, 1, 1), (1, 1, 1)]
    assert [(done.block[0], done.shared_bytes, done.stream) for done in (part, join)] == [
        (PART.threads, PART.smem_bytes, 7),
        (JOIN.threads, JOIN.smem_bytes, 7),
    ]
    assert (part.overlaps_previous, join.overlaps_previous) == (0, 1)
    assert pointers(part) == pointers(join) == (MEMORY, MEMORY + 8064)


@scenario
def the_workspace_is_measured_and_checked(api: Api, fake: FakeDriver, pack: Path) -> None:
    use(api, pack, (PART, JOIN))
    size = workspace_size(api)
    assert size == 8064 + 128  # 2,000 sums of 4 bytes and 3 numbers of 8, each to the next 128 bytes
    assert call(api, workspace_size=size) == (OK, "")
    short = f"workspace has {size - 1} bytes at 0x100000; it should have {size}"
    assert call(api, workspace_size=size - 1) == (INVALID_ARGUMENT, short)
    status, message = call(api, workspace=None, workspace_size=0)
    assert status == INVALID_ARGUMENT
    assert message.endswith(f"it should have {size}")
    assert fake.launch_count == 2


@scenario
def nothing_is_launched_when_a_kernel_is_missing(api: Api, fake: FakeDriver, pack: Path) -> None:
    use(api, pack, (PART, *KERNELS))
    status, message = call(api)
    assert status == UNSUPPORTED
    assert message.startswith("no new_join kernel for bf16, head_dim 128")
    use(api, pack, (PART, JOIN))
    fake.fail("cuModuleGetFunction")
    assert call(api)[0] == DRIVER_ERROR
    assert fake.launch_count == 0
    fake.fail("")
    assert call(api) == (OK, "")


@scenario
def the_other_operators_are_as_before(api: Api, fake: FakeDriver, pack: Path) -> None:
    use(api, pack, (PART, JOIN, *KERNELS))
    assert fake.kernel(launch(api, fake, fwd_args())) == KERNELS[0].name
    assert api.device_supported(0, "new_part") == (OK, "")


if __name__ == "__main__":
    run_scenario(SCENARIOS[sys.argv[1]], *sys.argv[2:])
