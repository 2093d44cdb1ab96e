"""Scenarios of attention forward, each run by `test_host_driver.py` in a process with the fake driver.

A scenario names its arguments: `api`, the C ABI of the runtime; `fake`, the driver; `pack`, the path of a
pack that holds `KERNELS`. Over 500 lines: the scenarios of one call, and helpers that the other files share.
"""

from __future__ import annotations

import math
import os
import random
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from tests.kernels.host.fake_driver import FakeDriver, Launch
from tests.kernels.host.host_api import (
    BF16,
    DRIVER_ERROR,
    FP16,
    INVALID_ARGUMENT,
    KERNELS,
    NO_DRIVER,
    OK,
    UNSUPPORTED,
    Api,
    FwdArgs,
    Kernel,
    fwd_args,
    pack_bytes,
    run_with,
    tensor,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

FULL, CAUSAL, FP16_STATIC = KERNELS
CONTEXT_0, CONTEXT_1 = 0x1000, 0x1001  # the fake's primary contexts
MIB = 2**20


SCENARIOS: dict[str, Callable[..., None]] = {}


def scenario(function: Callable[..., None]) -> Callable[..., None]:
    SCENARIOS[function.__name__] = function
    return function


def launch(api: Api, fake: FakeDriver, args: FwdArgs) -> Launch:
    before = fake.launch_count
    status, message = api.fwd(args)
    assert status == OK, message
    assert fake.launch_count == before + 1
    return fake.last_launch


def use(api: Api, pack: Path, kernels: Iterable[Kernel]) -> None:
    pack.write_bytes(pack_bytes(kernels))
    assert api.set_pack(pack) == (OK, "")


@scenario
def launch_carries_the_problem(api: Api, fake: FakeDriver) -> None:
    done = launch(api, fake, fwd_args(2, 300, 384, 6, 3, stream=7, softmax_scale=-0.5))
    assert fake.kernel(done) == FULL.name
    assert bytes(fake.library.fake_image()[:128]) == FULL.image[:128]
    assert tuple(done.grid) == (36, 1, 1)  # 3 tiles of 128 rows, 6 heads, 2 batches
    assert tuple(done.block) == (FULL.threads, 1, 1)
    assert done.shared_bytes == FULL.smem_bytes
    assert done.overlaps_previous == 0
    assert done.stream == 7
    params = done.params
    assert (params.batch, params.heads_q, params.heads_kv) == (2, 6, 3)
    assert (params.seqlen_q, params.seqlen_k) == (300, 384)
    assert (params.tiles_m, params.count) == (3, 36)
    assert params.lse.data == 0x50000
    assert math.isclose(params.scale_log2, -0.5 * math.log2(math.e), rel_tol=1e-6)


@scenario
def tensor_maps_follow_strides(api: Api, fake: FakeDriver) -> None:
    args = fwd_args(2, 256, 384, 4, 2)
    # q as a slice of a packed (b, s, 3, h, d) tensor, k transposed from (b, h, s, d), v one batch 3 GiB away.
    args.q = tensor(0x10000, (2, 256, 4, 128), (256 * 1536, 1536, 128, 1))
    args.k = tensor(0x20000, (2, 384, 2, 128), (2 * 384 * 128, 128, 384 * 128, 1))
    args.v = tensor(0x30000, (2, 384, 2, 128), (3 * 2**29, 256, 128, 1))
    q, k, v, out = fake.encodes_of(launch(api, fake, args))
    assert [map_.address for map_ in (q, k, v, out)] == [0x10000, 0x20000, 0x30000, 0x40000]
    assert tuple(q.extents) == (128, 4, 256, 1, 2)
    assert tuple(q.strides) == (256, 3072, 16, 256 * 3072)
    assert tuple(k.extents) == (128, 2, 384, 1, 2)
    assert tuple(k.strides) == (384 * 256, 256, 16, 2 * 384 * 256)
    assert tuple(v.strides) == (256, 512, 16, 3 * 2**30)
    assert tuple(out.strides) == (256, 1024, 16, 256 * 1024)
    assert [tuple(map_.box) for map_ in (q, k, v, out)] == [
        (64, 1, FULL.box_rows_q, 1, 1),
        (64, 1, FULL.box_rows_kv, 1, 1),
        (64, 1, FULL.box_rows_kv, 1, 1),
        (64, 1, FULL.box_rows_out, 1, 1),
    ]
    for map_ in (q, k, v, out):
        assert tuple(map_.element_strides) == (1, 1, 1, 1, 1)
        # bfloat16, no interleave, 128-byte swizzle, 256-byte L2 promotion, zeros outside
        assert (map_.type, map_.interleave, map_.swizzle, map_.promotion, map_.fill) == (9, 0, 3, 3, 0)
    half = fake.encodes_of(launch(api, fake, fwd_args(dtype=FP16)))
    assert {map_.type for map_ in half} == {6}


@scenario
def strides_of_single_extents_are_made_legal(api: Api, fake: FakeDriver) -> None:
    args = fwd_args(1, 1, 1, 1, 1)
    args.q = tensor(0x10000, (1, 1, 1, 128), (3, 2**60, 1, 1))
    q = fake.encodes_of(launch(api, fake, args))[0]
    assert all(stride % 16 == 0 and stride < 2**40 for stride in q.strides)


@scenario
def broadcast_keys_are_read_in_place(api: Api, fake: FakeDriver) -> None:
    args = fwd_args(2, 256, 384, 4, 2)
    args.k = tensor(0x20000, (2, 384, 2, 128), (0, 128, 0, 1))
    k = fake.encodes_of(launch(api, fake, args))[1]
    assert tuple(k.strides) == (0, 256, 16, 0)


@scenario
def layout_check_agrees_with_the_driver(api: Api) -> None:
    """A layout that passes is one that the driver takes; none that it would take is refused."""
    pick = random.Random(2).choice  # noqa: S311 - the same cases every time
    outcomes = set()
    for _ in range(3000):
        shape = (pick((1, 2)), pick((1, 5)), pick((1, 3)), 128)
        stride = tuple(pick((0, 8, 12, 128, 2**30, 2**39 - 8, 2**39)) for _ in range(3))
        args = fwd_args(shape[0], 16, shape[1], shape[2], shape[2])
        args.k = tensor(pick((0x20000, 0x20008)), shape, (*stride, 1))
        legal = args.k.data % 16 == 0 and all(
            extent == 1 or (step * 2 % 16 == 0 and step * 2 < 2**40)
            for extent, step in zip(shape, stride, strict=False)
        )
        assert (api.check_layout(args.k)[0] == OK) == legal
        assert (api.fwd(args)[0] == OK) == legal
        outcomes.add(legal)
    assert outcomes == {True, False}


@scenario
def causal_chooses_its_kernel(api: Api, fake: FakeDriver) -> None:
    assert fake.kernel(launch(api, fake, fwd_args(causal=1))) == CAUSAL.name
    assert fake.kernel(launch(api, fake, fwd_args(seqlen_q=2, causal=1))) == CAUSAL.name
    assert fake.kernel(launch(api, fake, fwd_args(seqlen_q=1, causal=1))) == FULL.name
    assert fake.kernel(launch(api, fake, fwd_args(dtype=FP16))) == FP16_STATIC.name


@scenario
def grid_fills_the_device_once_or_holds_every_tile(api: Api, fake: FakeDriver) -> None:
    def blocks(dtype: int, seqlen_q: int, heads: int, sm_margin: int = 0) -> int:
        args = fwd_args(1, seqlen_q, 64, heads, heads, dtype=dtype, sm_margin=sm_margin)
        return launch(api, fake, args).grid[0]

    assert blocks(BF16, 128, 5) == 5
    assert blocks(BF16, 1280, 100) == 132
    assert blocks(BF16, 1280, 100, sm_margin=32) == 100
    # Without a queue, a block for each tile: no margin holds one back.
    assert blocks(FP16, 1280, 100) == 1000
    assert blocks(FP16, 1280, 100, sm_margin=131) == 1000
    assert blocks(FP16, 128, 5) == 5
    assert blocks(FP16, 128, 1) == 1
    status, message = api.fwd(fwd_args(sm_margin=132))
    assert status == INVALID_ARGUMENT
    assert message == "sm_margin is 132; it should be less than the 132 multiprocessors of device 0"


@scenario
def empty_keys_are_launched(api: Api, fake: FakeDriver) -> None:
    args = fwd_args(2, 256, 0, 4, 2)
    args.k.data = args.v.data = None
    done = launch(api, fake, args)
    assert done.params.seqlen_k == 0
    for map_ in fake.encodes_of(done)[1:3]:
        assert map_.address == 0x40000
        assert tuple(map_.extents) == (128, 1, 1, 1, 1)


@scenario
def nothing_to_do_needs_no_driver(api: Api, fake: FakeDriver) -> None:
    for shape in ((0, 256, 384, 4, 2), (2, 0, 384, 4, 2), (2, 256, 384, 0, 2), (2, 256, 384, 0, 0)):
        args = fwd_args(*shape)
        args.q.data = args.out.data = args.lse = None
        assert api.fwd(args) == (OK, "")
    assert fake.calls("cuInit") == 0


@scenario
def warm_calls_only_launch(api: Api, fake: FakeDriver) -> None:
    launch(api, fake, fwd_args())
    cold = ("cuInit", "cuModuleLoadData", "cuMemAlloc", "cuDevicePrimaryCtxRetain", "cuDeviceGetAttribute")
    before = [fake.calls(name) for name in cold]
    for _ in range(50):
        launch(api, fake, fwd_args())
    assert [fake.calls(name) for name in cold] == before
    assert fake.calls("cuModuleLoadData") == 1  # and only of the kernel that was used
    assert fake.calls("cuTensorMapEncodeTiled") == 4  # they were the same tensors
    assert fake.calls("cuLaunchKernelEx") == 51
    assert fake.calls("cuStreamIsCapturing") == fake.calls("cuStreamGetId") == 0  # of the legacy stream


@scenario
def maps_are_of_their_tensors(api: Api, fake: FakeDriver, pack: Path) -> None:
    """A launch's maps say what it was given, whatever this thread launched before."""
    pick = random.Random(7).choice  # noqa: S311 - the same cases every time
    half = Kernel("half", dtype=FP16, box_rows_kv=80)
    pack.write_bytes(pack_bytes((FULL, half)))
    assert api.set_pack(pack) == (OK, "")
    calls = 700
    for _ in range(calls):
        kernel = pick((FULL, half))
        args = fwd_args(pick((1, 2)), pick((128, 256)), pick((0, 384)), 4, 2, dtype=kernel.dtype)
        args.device = pick((0, 1))
        args.q.data, args.k.data = pick((0x10000, 0x20000)), pick((0x10000, 0x20000, 0x30000))
        args.k.stride[1] = pick((256, 512))
        maps = fake.encodes_of(launch(api, fake, args))
        boxes = (kernel.box_rows_q, kernel.box_rows_kv, kernel.box_rows_kv, kernel.box_rows_out)
        for tensor_, map_, rows in zip((args.q, args.k, args.v, args.out), maps, boxes, strict=True):
            batch, seqlen, heads, head_dim = tensor_.shape
            assert (map_.type, tuple(map_.box)) == (6 if kernel is half else 9, (64, 1, rows, 1, 1))
            if seqlen == 0:
                assert (map_.address, tuple(map_.extents)) == (args.out.data, (head_dim, 1, 1, 1, 1))
                continue
            assert (map_.address, tuple(map_.extents)) == (tensor_.data, (head_dim, heads, seqlen, 1, batch))
            steps = tuple(2 * tensor_.stride[i] if tensor_.shape[i] > 1 else 16 for i in (2, 1, 0))
            assert (map_.strides[0], map_.strides[1], map_.strides[3]) == steps
    assert fake.calls("cuTensorMapEncodeTiled") < 3.5 * calls  # and of 4 some were there


@scenario
def threads_do_not_share_maps(api: Api, fake: FakeDriver) -> None:
    race(api, [fwd_args(seqlen_k=384 + 8 * index) for index in range(8)], repeats=50)
    for done in fake.launches:
        assert fake.encodes_of(done)[1].extents[2] == done.params.seqlen_k


@scenario
def a_map_that_failed_is_not_kept(api: Api, fake: FakeDriver) -> None:
    fake.fail("cuTensorMapEncodeTiled")
    for _ in range(2):
        assert api.fwd(fwd_args())[0] == DRIVER_ERROR
    fake.fail("")
    assert [map_.address for map_ in fake.encodes_of(launch(api, fake, fwd_args()))] == [
        *(0x10000, 0x20000, 0x30000, 0x40000)
    ]


def queue(api: Api, fake: FakeDriver, stream: int, device: int = 0) -> int:
    return launch(api, fake, fwd_args(stream=stream, device=device)).params.queue


@scenario
def a_stream_keeps_its_queue(api: Api, fake: FakeDriver) -> None:
    queues = {stream: queue(api, fake, stream) for stream in (0, 5, 6, 5 + 64)}
    assert len(set(queues.values())) == 4
    assert all(address % 128 == 0 for address in queues.values())
    assert queues == {stream: queue(api, fake, stream) for stream in queues}
    assert queue(api, fake, 5, device=1) not in queues.values()
    fake.stream_id(5, 777)  # destroyed, and the handle given to a new stream
    assert queue(api, fake, 5) not in queues.values()
    for done in fake.launches:
        assert (fake.queue_of(done).next, fake.queue_of(done).done) == (0, 0)
    assert launch(api, fake, fwd_args(dtype=FP16)).params.queue == 0  # that kernel has a fixed schedule


@scenario
def per_thread_streams_have_queues_of_their_own(api: Api, fake: FakeDriver) -> None:
    queues = [queue(api, fake, 2)]
    thread = threading.Thread(target=lambda: queues.append(queue(api, fake, 2)))
    thread.start()
    thread.join()
    assert len(set(queues)) == 2
    assert queue(api, fake, 2) == queues[0]


@scenario
def captured_launches_have_fresh_queues(api: Api, fake: FakeDriver) -> None:
    eager = queue(api, fake, 5)
    fake.capture(5, True)
    captured = [queue(api, fake, 5) for _ in range(1200)]  # more than two slabs hold
    assert len({eager, *captured}) == 1201
    assert {(fake.queue_of(done).next, fake.queue_of(done).done) for done in fake.launches} == {(0, 0)}
    fake.capture(5, False)
    assert queue(api, fake, 5) == eager
    assert not fake.library.fake_capture_broken()


@scenario
def first_use_survives_a_capture(api: Api, fake: FakeDriver) -> None:
    fake.capture(9, True)
    launch(api, fake, fwd_args(stream=9))
    launch(api, fake, fwd_args(stream=4))  # another stream, while that capture goes on
    assert fake.calls("cuModuleLoadData") == 1
    assert not fake.library.fake_capture_broken()
    assert fake.library.fake_capture_mode() == 0  # as this thread had it


@scenario
def contexts_are_entered_and_left(api: Api, fake: FakeDriver) -> None:
    assert launch(api, fake, fwd_args()).context == CONTEXT_0  # with none current before
    assert fake.library.fake_depth() == 0
    fake.set_context(CONTEXT_0)
    pushes = fake.calls("cuCtxPushCurrent")
    launch(api, fake, fwd_args())
    assert fake.calls("cuCtxPushCurrent") == pushes
    assert launch(api, fake, fwd_args(device=1)).context == CONTEXT_1
    assert fake.context == CONTEXT_0
    launch(api, fake, fwd_args(device=1))
    assert fake.calls("cuModuleLoadData") == 2  # once a device
    assert fake.calls("cuDevicePrimaryCtxRetain") == 2


def race(api: Api, calls: list[FwdArgs], repeats: int = 1) -> None:
    """Make the calls at once, each from a thread of its own."""
    failures = []
    start = threading.Barrier(len(calls))

    def work(args: FwdArgs) -> None:
        start.wait()
        for _ in range(repeats):
            status, message = api.fwd(args)
            if status != OK:
                failures.append(message)

    threads = [threading.Thread(target=work, args=(args,)) for args in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


@scenario
def threads_make_everything_once(api: Api, fake: FakeDriver) -> None:
    fake.slow("cuInit")
    race(api, [fwd_args(dtype=FP16) for _ in range(8)])
    assert fake.calls("cuInit") == 1
    fake.slow("cuDevicePrimaryCtxRetain")
    race(api, [fwd_args(dtype=FP16, device=1) for _ in range(8)])
    assert fake.calls("cuDevicePrimaryCtxRetain") == 2
    fake.slow("cuModuleLoadData")
    race(api, [fwd_args(causal=1) for _ in range(8)])
    assert fake.calls("cuModuleLoadData") == 3
    fake.capture(9, True)  # uses up a slab of queues, so that the next one needs memory
    slabs = fake.calls("cuMemAlloc")
    while fake.calls("cuMemAlloc") == slabs:
        queue(api, fake, 9)
    for _ in range(511):
        queue(api, fake, 9)
    fake.capture(9, False)
    fake.slow("cuMemAlloc")
    race(api, [fwd_args(stream=7) for _ in range(8)])
    assert fake.calls("cuMemAlloc") == slabs + 2
    assert len({done.params.queue for done in fake.launches if done.stream == 7}) == 1


@scenario
def many_threads_streams_and_devices(api: Api, fake: FakeDriver) -> None:
    calls = [fwd_args(stream=3 + index % 4, device=index % 2, causal=index // 4) for index in range(8)]
    race(api, calls, repeats=100)
    queues = {(done.context, done.stream): done.params.queue for done in fake.launches}
    assert all(queues[done.context, done.stream] == done.params.queue for done in fake.launches)
    assert len(set(queues.values())) == len(queues) == 4
    assert len(fake.launches) == 800


@scenario
def an_old_driver_is_named(api: Api, fake: FakeDriver) -> None:
    fake.setup(version=11080)
    expected = (NO_DRIVER, "the CUDA driver supports CUDA 11.8; 12.0 or newer is needed")
    assert api.fwd(fwd_args()) == expected
    assert api.device_supported(0) == expected
    assert api.driver()[:2] == expected
    fake.setup(version=12000)  # nothing of the failure is kept
    assert api.driver() == (OK, "", 12000, 2)


@scenario
def a_machine_without_devices(api: Api, fake: FakeDriver) -> None:
    fake.setup(init_result=100)
    assert api.driver() == (OK, "", 12080, 0)
    expected = (INVALID_ARGUMENT, "device is 0; the driver sees 0 CUDA devices")
    assert api.device_supported(0) == expected
    assert api.fwd(fwd_args()) == expected


@scenario
def a_driver_that_does_not_start(api: Api, fake: FakeDriver) -> None:
    fake.setup(init_result=999)
    assert api.driver()[:2] == (NO_DRIVER, "cuInit failed with CUDA_ERROR_UNKNOWN (999): made to fail")
    fake.setup(init_result=3)
    status, message, *_ = api.driver()
    assert status == DRIVER_ERROR
    assert "forked after its parent used CUDA" in message


@scenario
def device_ordinals_are_checked(api: Api, fake: FakeDriver) -> None:
    for device in (-1, 2, 2**31 - 1):
        expected = (INVALID_ARGUMENT, f"device is {device}; the driver sees 2 CUDA devices")
        assert api.fwd(fwd_args(device=device)) == expected
        assert api.device_supported(device) == expected
    assert api.device_supported(1) == (OK, "")
    assert fake.calls("cuDevicePrimaryCtxRetain") == 0  # asking makes no context


@scenario
def other_architectures_are_refused(api: Api, fake: FakeDriver) -> None:
    fake.setup(capability=100)
    expected = (UNSUPPORTED, "device 0 (Fake GPU, sm_100) has no kernel; this build holds sm_90a (3 fwd)")
    assert api.device_supported(0) == expected
    assert api.fwd(fwd_args()) == expected


@scenario
def missing_variants_are_refused(api: Api, fake: FakeDriver, pack: Path) -> None:
    expected = (
        "no fwd kernel for bf16, head_dim 136, head_dim of v 64, mask causal on sm_90; "
        "those of this build for bf16 and this mask have head_dim/head_dim of v up to: 128/128"
    )
    assert api.fwd(fwd_args(head_dim=136, head_dim_v=64, causal=1)) == (UNSUPPORTED, expected)
    status, message = api.fwd(fwd_args(dtype=FP16, causal=1))
    assert status == UNSUPPORTED
    assert message.endswith(
        "those of this build for fp16 and this mask have head_dim/head_dim of v up to: none"
    )
    assert api.fwd(fwd_args(head_dim_v=136))[0] == UNSUPPORTED
    assert api.fwd(fwd_args(softcap=1.0))[0] == UNSUPPORTED
    assert fake.calls("cuModuleLoadData") == 0
    empty = pack.with_name("empty.fa3pack")
    empty.write_bytes(pack_bytes(()))
    assert api.set_pack(empty) == (OK, "")
    assert (
        api.device_supported(0)[1] == "device 0 (Fake GPU, sm_90) has no kernel; this build holds no kernel"
    )


@scenario
def every_driver_failure_is_reported_and_recovered(api: Api, fake: FakeDriver) -> None:
    assert api.driver()[0] == OK
    first_use = (
        *("cuDeviceGet", "cuDeviceGetName", "cuDeviceGetAttribute", "cuDevicePrimaryCtxRetain"),
        *("cuMemAlloc", "cuStreamCreate", "cuMemsetD8Async"),
        *("cuModuleLoadData", "cuModuleGetFunction", "cuFuncSetAttribute"),
    )
    every_use = (
        *("cuCtxGetCurrent", "cuCtxPushCurrent", "cuStreamIsCapturing", "cuStreamGetId"),
        *("cuTensorMapEncodeTiled", "cuLaunchKernelEx"),
    )
    for index, name in enumerate(first_use + every_use):
        fake.fail(name)
        args = fwd_args(stream=5)
        args.q.data += 0x1000 * index  # whose map is not there yet
        status, message = api.fwd(args)
        suffix = " for q" if name == "cuTensorMapEncodeTiled" else ""
        assert (status, message) == (
            DRIVER_ERROR,
            f"{name}{suffix} failed with CUDA_ERROR_UNKNOWN (999): made to fail",
        )
        assert fake.library.fake_depth() == 0
        assert fake.library.fake_capture_mode() == 0
    assert not fake.launches
    assert fake.library.fake_modules_unloaded() == 2
    assert fake.calls("cuMemFree") == 2
    fake.fail("")
    launch(api, fake, fwd_args())


def in_child(action: Callable[[], bool]) -> int:
    """Exit status of a forked child that runs `action`; 0 when it returns true."""
    child = os.fork()
    if child == 0:
        os._exit(0 if action() else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@scenario
def a_child_forked_before_use_works(api: Api, fake: FakeDriver) -> None:
    assert api.kernel_count() == len(KERNELS)  # reading the pack is no use of CUDA
    assert in_child(lambda: api.fwd(fwd_args()) == (OK, "")) == 0
    launch(api, fake, fwd_args())


@scenario
def a_child_forked_after_use_is_told(api: Api, fake: FakeDriver) -> None:
    launch(api, fake, fwd_args())

    def refused() -> bool:
        status, message = api.fwd(fwd_args())
        return status == DRIVER_ERROR and "forked after CUDA was first used" in message and "spawn" in message

    assert in_child(refused) == 0
    assert in_child(lambda: api.driver()[0] == DRIVER_ERROR and api.kernel_count() == len(KERNELS)) == 0
    launch(api, fake, fwd_args())


@scenario
def forks_during_setup_do_not_hang(api: Api, pack: Path) -> None:
    stop = threading.Event()

    def reopen() -> None:
        while not stop.is_set():
            api.set_pack(pack)

    thread = threading.Thread(target=reopen)
    thread.start()
    try:
        for _ in range(50):
            assert in_child(lambda: api.set_pack(pack)[0] == OK) == 0
    finally:
        stop.set()
        thread.join()


def run_scenario(function: Callable[..., None], library: str, pack: str) -> None:
    api = Api(Path(library))
    fake = FakeDriver()
    status, message = api.set_pack(Path(pack))
    assert status == OK, message
    run_with(function, api=api, fake=fake, pack=Path(pack))


if __name__ == "__main__":
    run_scenario(SCENARIOS[sys.argv[1]], *sys.argv[2:])
