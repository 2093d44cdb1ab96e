"""What `test_host_driver.py` runs beside `scenarios.py`: the choice of a kernel, and each kind's launch."""

from __future__ import annotations

import random
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from tests.kernels.host.host_api import (
    BAD_PACK,
    BF16,
    COMBINE,
    EXACT,
    FP16,
    INDEX,
    INVALID_ARGUMENT,
    KERNELS,
    NO_DRIVER,
    OK,
    PORTABLE,
    PTX,
    UNSUPPORTED,
    Api,
    FwdArgs,
    Kernel,
    combine_args,
    fwd_args,
    portable,
)
from tests.kernels.host.scenarios import launch, run_scenario, use

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from tests.kernels.host.fake_driver import FakeDriver

UNSUPPORTED_PTX = 222  # of the driver's results
ALL_CODES = 7
T = TypeVar("T")
MASKS = {"full": {}, "causal": {"causal": 1}, "local": {"window_left": 3}}

SCENARIOS: dict[str, Callable[..., None]] = {}


def scenario(function: Callable[..., None]) -> Callable[..., None]:
    SCENARIOS[function.__name__] = function
    return function


def ptx(name: str, **changes: object) -> Kernel:
    return portable(name, **{"code": PTX, "image": b".version 8.7\0", **changes})


def padded_args(head_dim: int, head_dim_v: int, **changes: object) -> FwdArgs:
    """A call whose rows start where a copy can."""
    args = fwd_args(head_dim=head_dim, head_dim_v=head_dim_v, **changes)
    for operand in (args.q, args.k, args.v, args.out):
        shape = tuple(operand.shape)
        step = -(-shape[3] // 8) * 8
        operand.stride[:] = (shape[1] * shape[2] * step, shape[2] * step, step, 1)
    return args


@dataclass(frozen=True)
class Machine:
    """A device, and what may run on it."""

    ordinal: int
    capability: int
    shared_bytes: int
    allowed: int

    def runs(self, kernel: Kernel) -> bool:
        same_major = kernel.sm // 10 == self.capability // 10
        by_code = {
            EXACT: kernel.sm == self.capability,
            PORTABLE: kernel.sm <= self.capability and same_major,
            PTX: kernel.sm <= self.capability,
        }
        return (
            by_code[kernel.code]
            and self.allowed >> kernel.code & 1
            and kernel.smem_bytes <= self.shared_bytes
        )


@dataclass(frozen=True)
class Call:
    mask: str
    dtype: int
    head_dim: int
    head_dim_v: int
    seqlen_q: int


def best(kernels: Iterable[Kernel], machine: Machine, call: Call) -> Kernel | None:
    """The rule, as its description has it."""

    def rank(kernel: Kernel) -> tuple[int, ...]:
        columns = kernel.head_dim_v // kernel.value_slices
        work = kernel.head_dim + columns * -(-call.head_dim_v // columns)
        return (kernel.code, -kernel.sm, work, kernel.head_dim, -kernel.min_seqlen_q)

    serving = [
        kernel
        for kernel in kernels
        if machine.runs(kernel)
        and kernel.op == "fwd"
        and kernel.mask in {call.mask, "any"}
        and kernel.dtype == call.dtype
        and kernel.head_dim >= call.head_dim
        and kernel.head_dim_v >= call.head_dim_v
        and kernel.min_seqlen_q <= call.seqlen_q
    ]
    return min(serving, key=rank, default=None)


def random_kernel(index: int, pick: Callable[[Sequence[T]], T]) -> Kernel:
    code = pick((EXACT, PORTABLE, PTX))
    sizes = (
        (64, 64, 1),
        (96, 96, 1),
        (128, 128, 1),
        (192, 128, 1),
        (256, 256, 1),
        (64, 512, 2),
        (64, 384, 3),
    )
    head_dim, head_dim_v, slices = pick(sizes)
    return portable(
        f"kernel{index}",
        code=code,
        sm=pick((80, 86, 89, 90, 100, 120)),
        op=pick(("fwd", "fwd", "fwd", "combine", "bwd")),
        mask=pick(("full", "causal", "local", "any")),
        dtype=pick((FP16, BF16)),
        head_dim=head_dim,
        head_dim_v=head_dim_v,
        value_slices=slices,
        min_seqlen_q=pick((0, 0, 100)),
        smem_bytes=pick((40_000, 100_000, 200_000)),
        image=b"image of a kernel\0",
    )


@scenario
def the_best_kernel_that_runs_serves(api: Api, fake: FakeDriver, pack: Path) -> None:
    pick = random.Random(5).choice  # noqa: S311 - the same cases every time
    capabilities = (80, 86, 87, 89, 90, 100, 103, 110, 120, 121)
    outcomes = {"served": 0, "refused": 0}
    for ordinal, capability in enumerate(capabilities * 3):
        shared_bytes = pick((99 * 1024, 163 * 1024, 227 * 1024))
        fake.setup(devices=len(capabilities) * 3, capability=capability)
        fake.shared_bytes(shared_bytes)
        kernels = [random_kernel(index, pick) for index in range(120)]
        use(api, pack, kernels)
        for _ in range(80):
            machine = Machine(ordinal, capability, shared_bytes, pick((1, 2, 4, 3, 6, ALL_CODES, ALL_CODES)))
            call = Call(
                mask=pick(tuple(MASKS)),
                dtype=pick((FP16, BF16)),
                head_dim=pick((8, 64, 72, 96, 128, 160, 192, 256)),
                head_dim_v=pick((8, 64, 96, 100, 128, 129, 256, 257, 512)),
                seqlen_q=pick((64, 128)),
            )
            wanted = best(kernels, machine, call)
            outcomes["refused" if wanted is None else "served"] += 1
            assert api.allow_kernels(machine.allowed) == (OK, "")
            args = padded_args(
                *(call.head_dim, call.head_dim_v),
                seqlen_q=call.seqlen_q,
                dtype=call.dtype,
                device=ordinal,
                **MASKS[call.mask],
            )
            if wanted is None:
                assert api.fwd(args)[0] == UNSUPPORTED
                continue
            name = fake.kernel(launch(api, fake, args))
            (served,) = (kernel for kernel in kernels if kernel.name == name)
            # Kernels that the rule ranks alike may each serve.
            assert best([wanted, served], machine, call) == wanted
            assert best([served, wanted], machine, call) == served
    assert min(outcomes.values()) > 500, outcomes


@scenario
def codes_that_are_not_allowed_are_passed_over(api: Api, fake: FakeDriver, pack: Path) -> None:
    use(api, pack, (KERNELS[0], portable("portable_sm90", sm=90), ptx("ptx_sm80")))
    names = {
        ALL_CODES: KERNELS[0].name,
        6: "portable_sm90",
        2: "portable_sm90",
        4: "ptx_sm80",
        5: KERNELS[0].name,
    }
    for codes, name in names.items():
        assert api.allow_kernels(codes) == (OK, "")
        assert fake.kernel(launch(api, fake, fwd_args())) == name
    for codes in (0, 8, 2**32 - 1):
        message = f"codes is {codes}; it should be a sum of 1 (exact), 2 (portable) and 4 (PTX)"
        assert api.allow_kernels(codes) == (INVALID_ARGUMENT, message)
    use(api, pack, KERNELS)
    assert api.allow_kernels(4) == (OK, "")
    message = "device 0 (Fake GPU, sm_90) has no kernel that is allowed; this build holds sm_90a (3 fwd)"
    assert api.device_supported(0) == (UNSUPPORTED, message)
    assert api.allow_kernels(ALL_CODES) == (OK, "")
    assert api.device_supported(0) == (OK, "")


@scenario
def short_sequences_can_be_given_to_the_schedules_for_long_ones(
    api: Api, fake: FakeDriver, pack: Path
) -> None:
    use(api, pack, (Kernel("any"), Kernel("long", min_seqlen_q=512)))
    long = fwd_args(1, 512, 512)
    assert [api.fwd_kernel(args) for args in (fwd_args(1, 511, 512), long)] == [
        (OK, "", "any"),
        (OK, "", "long"),
    ]
    ragged = fwd_args(seqlen_q=4096, seqused_q=INDEX, max_seqlen_q=4096)
    for seqlen_q, name in ((511, "any"), (512, "long"), (2**31 - 1, "long"), (0, "any")):
        assert api.allow_kernels(ALL_CODES, seqlen_q) == (OK, "")
        assert fake.kernel(launch(api, fake, fwd_args(seqlen_q=1))) == name
        assert fake.kernel(launch(api, fake, ragged)) == name
        assert fake.kernel(launch(api, fake, fwd_args(seqlen_q=4096))) == "long"
    refused = (INVALID_ARGUMENT, "seqlen_q is -1; it should be 0 or more")
    assert api.allow_kernels(ALL_CODES, -1) == refused


@scenario
def a_device_without_kernels_is_told_what_there_is(api: Api, fake: FakeDriver, pack: Path) -> None:
    fake.setup(capability=75)
    use(api, pack, (*KERNELS, COMBINE, portable("a"), ptx("b"), portable("c", sm=86, op="bwd")))
    contents = "sm_90a (3 fwd), sm_80 (1 combine, 1 fwd), sm_80 PTX (1 fwd), sm_86 (1 bwd)"
    expected = (UNSUPPORTED, f"device 0 (Fake GPU, sm_75) has no kernel; this build holds {contents}")
    assert api.device_supported(0) == expected
    assert api.fwd(fwd_args()) == expected


@scenario
def operators_are_compared_by_name(api: Api, fake: FakeDriver, pack: Path) -> None:
    """However many there are, none takes the calls of another."""
    others = tuple(
        Kernel(f"{op}_{mask}", op=op, mask=mask, head_dim=64, head_dim_v=64)
        for op in (*(f"operator_{i}" for i in range(40)), "fwd2", "bwd", "fw", "fwd_into_fifteen")
        for mask in ("full", "causal", "local", "any")
        if len(op) < 16
    )
    combine = replace(COMBINE, sm=90)
    use(api, pack, (*others, *KERNELS, combine))
    assert fake.kernel(launch(api, fake, fwd_args(head_dim=64))) == KERNELS[0].name
    assert fake.kernel(launch(api, fake, fwd_args(head_dim=64, causal=1))) == KERNELS[1].name
    assert api.combine_kernel(combine_args()) == (OK, "", COMBINE.name)
    use(api, pack, others)
    status, message, _ = api.fwd_kernel(fwd_args())
    assert status == UNSUPPORTED
    assert message.startswith("no fwd kernel for bf16, head_dim 128")


@scenario
def a_device_is_supported_operator_by_operator(api: Api, pack: Path) -> None:
    use(api, pack, KERNELS)
    assert api.device_supported(0) == api.device_supported(0, "fwd") == (OK, "")
    expected = "device 0 (Fake GPU, sm_90) has no combine kernel; this build holds sm_90a (3 fwd)"
    assert api.device_supported(0, "combine") == (UNSUPPORTED, expected)
    use(api, pack, (*KERNELS, replace(COMBINE, sm=90)))
    assert api.device_supported(0, "combine") == (OK, "")
    assert api.device_supported(0, "bwd")[0] == UNSUPPORTED


@scenario
def the_kernel_of_a_call_is_named_without_a_launch(api: Api, fake: FakeDriver) -> None:
    """It is checked as the call is, and chosen as the call's."""
    for args in (
        fwd_args(),
        fwd_args(causal=1),
        fwd_args(dtype=FP16),
        fwd_args(seqused_k=INDEX, seqlen_q=4096),
    ):
        before = fake.launch_count
        status, message, name = api.fwd_kernel(args)
        assert (status, message, fake.launch_count) == (OK, "", before)
        assert fake.kernel(launch(api, fake, args)) == name
    assert api.fwd_kernel(fwd_args(batch=0)) == (OK, "", "")
    assert api.fwd_kernel(fwd_args(softcap=-1.0))[:2] == api.fwd(fwd_args(softcap=-1.0))
    assert api.fwd_kernel(fwd_args(head_dim=256))[:2] == api.fwd(fwd_args(head_dim=256))
    assert fake.launch_count == 4


@scenario
def a_malformed_tail_is_refused_with_its_kernel(api: Api, fake: FakeDriver, pack: Path) -> None:
    """The pack reads common fields alone; those of an operator are checked when a kernel is chosen."""
    for changes in (
        {"box_rows_kv": 512},
        {"box_rows_q": 0},
        {"box_rows_out": 0},
        {"value_slices": 0},
        {"value_slices": 3},
        {"packs_gqa": 2},
        {"dynamic": 2},
    ):
        use(api, pack, (Kernel("bad", **changes),))
        message = "kernel bad of the pack is malformed: a field of fwd is out of range"
        assert api.fwd(fwd_args()) == (BAD_PACK, message)
    assert fake.calls("cuModuleLoadData") == 0


@scenario
def kernels_without_maps_get_a_block_a_tile(api: Api, fake: FakeDriver, pack: Path) -> None:
    use(api, pack, (portable("plain", sm=90),))
    done = launch(api, fake, fwd_args(2, 300, 384, 4, 4, sm_margin=100))
    assert tuple(done.grid) == (5 * 4 * 2, 1, 1)  # tiles of 64 rows, heads, batches
    assert (done.params.tiles_m, done.params.count) == (5, 40)
    assert (done.shared_bytes, tuple(done.block)) == (65_536, (128, 1, 1))
    assert (done.params.queue, done.params.box_rows_kv) == (0, 0)
    assert not any((*done.params.q_map, *done.params.out_map))
    assert (done.params.k.data, done.params.k.stride_row) == (0x20000, 4 * 128)
    assert fake.calls("cuTensorMapEncodeTiled") == fake.calls("cuMemAlloc") == 0
    pages = {"seqused_k": 0x60000, "page_table": 0x61000, "page_table_stride": 8, "max_seqlen_k": 8 * 384}
    assert launch(api, fake, fwd_args(**pages)).params.box_rows_kv == 0


@scenario
def ptx_is_compiled_by_a_driver_that_can(api: Api, fake: FakeDriver, pack: Path) -> None:
    use(api, pack, (ptx("compiled", toolkit="13.0"),))
    fake.setup(capability=121)
    fake.fail("cuModuleLoadData", UNSUPPORTED_PTX)
    message = (
        "the CUDA driver supports CUDA 12.8 and cannot compile kernel compiled, which is PTX of CUDA 13.0; "
        "install a driver of CUDA 13.0 or newer"
    )
    assert api.fwd(fwd_args()) == (NO_DRIVER, message)
    fake.fail("")
    launch(api, fake, fwd_args())
    assert bytes(fake.library.fake_image()[:13]) == b".version 8.7\0"


@scenario
def ptx_without_its_end_is_refused(api: Api, fake: FakeDriver, pack: Path) -> None:
    use(api, pack, (ptx("endless", image=b".version 8.7"),))
    message = f"kernel pack {pack} is altered: kernel endless is PTX that does not end with NUL"
    assert api.fwd(fwd_args()) == (BAD_PACK, message)
    assert fake.calls("cuModuleLoadData") == 0


if __name__ == "__main__":
    run_scenario(SCENARIOS[sys.argv[1]], *sys.argv[2:])
