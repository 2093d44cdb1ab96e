"""The operator library against doubles of torch and of the driver: the calls that need CUDA tensors.

A scenario names its arguments: `torch`, the double; `fake`, the driver. Over 500 lines: the scenarios of the
forward operators, which share their arguments.
"""

from __future__ import annotations

import itertools
import sys
from typing import TYPE_CHECKING

from tests.kernels.host.host_api import ARGUMENTS, KERNELS, LOCAL, PACKED, SCALARS, contiguous
from tests.kernels.host.torch_double import (
    BFLOAT16,
    CPU,
    CUDA,
    FLOAT16,
    FLOAT32,
    INT32,
    Torch,
    TorchTensor,
    run_operator,
)

if TYPE_CHECKING:
    import ctypes
    from collections.abc import Callable

    from tests.kernels.host.fake_driver import FakeDriver

SCENARIOS: dict[str, Callable[..., None]] = {}


def scenario(function: Callable[..., None]) -> Callable[..., None]:
    SCENARIOS[function.__name__] = function
    return function


@scenario
def the_operators_are_registered(torch: Torch) -> None:
    """These ten are among them, and none is registered twice."""
    parts, results = "Tensor out_partial, Tensor lse_partial", " -> (Tensor out, Tensor lse)"
    every = itertools.takewhile(bool, map(torch.library.fake_schema, itertools.count()))
    schemas = [schema.decode() for schema in every]
    names = [schema.partition("(")[0] for schema in schemas]
    assert len({*names}) == len(names)
    assert {*schemas} >= {
        *(_forward(name) + results for name in ("fwd", "fwd_masked", "fwd_varlen", "fwd_general")),
        _forward("fwd_into", "Tensor(a!) out, ") + " -> Tensor lse",
        f"combine({parts}, int out_dtype){results}",
        f"combine_into({parts}, Tensor(a!) out) -> Tensor lse",
        _append("append") + ") -> Tensor seqlens",
        _append("append_rotating")
        + ", Tensor q, Tensor? cu_seqlens_q, bool q_advances) -> (Tensor seqlens, Tensor rotated)",
        f"fwd_qkvpacked(Tensor qkv, float? softmax_scale, bool causal, int heads_q){results}",
    }


def _forward(name: str, first: str = "") -> str:
    """The schema of an operator up to its results; what a call may leave out has a default."""
    kinds = {bool: "bool", int: "int", float: "float", type(None): "Tensor?"}
    special = {"max_seqlen_q": "SymInt", "max_seqlen_k": "SymInt", "softmax_scale": "float?"}
    required = {*SCALARS, *(PACKED if name == "fwd_varlen" else ())}
    others = (
        f", {special.get(argument, kinds[type(value)])} {argument}"
        + ("" if argument in required else f"={value}")
        for argument, value in ARGUMENTS[name].items()
    )
    return f"{name}({first}Tensor q, Tensor k, Tensor v{''.join(others)})"


def _append(name: str) -> str:
    """The schema of an operator that appends, up to what the two do not share."""
    tensors = "Tensor(a!) k_cache, Tensor(b!) v_cache, Tensor k, Tensor v, Tensor cache_seqlens"
    optional = (
        "cache_batch_idx",
        "page_table",
        "cu_seqlens_k_new",
        "rotary_cos",
        "rotary_sin",
        "rotary_seqlens",
    )
    return f"{name}({tensors}, {', '.join(f'Tensor? {each}' for each in optional)}, bool rotary_interleaved"


@scenario
def a_call_launches_and_returns(torch: Torch, fake: FakeDriver) -> None:
    tensors = torch.qkv(device=(CUDA, 1))
    addresses = [tensor.contents.data for tensor in tensors]
    thrown, (out, lse) = torch.call(tensors, softmax_scale=0.25, causal=True, sm_margin=130)
    assert thrown is None
    assert (out.shape, out.dtype, out.device_index) == ((2, 256, 4, 128), BFLOAT16, 1)
    assert (lse.shape, lse.dtype, lse.device_index) == ((2, 4, 256), FLOAT32, 1)
    assert tuple(out.strides[:4]) == contiguous(*out.shape)
    assert tuple(lse.strides[:3]) == contiguous(*lse.shape)
    assert torch.alive == 2  # the results; the arguments were the operator's to delete
    (launch,) = fake.launches
    assert fake.kernel(launch) == KERNELS[1].name
    assert (launch.stream, launch.context) == (41, 0x1001)
    assert launch.grid[0] == 2
    assert launch.params.lse.data == lse.data
    assert [map_.address for map_ in fake.encodes_of(launch)] == [*addresses, out.data]
    assert abs(launch.params.scale_log2 - 0.25 * 1.4426950408889634) < 1e-6
    assert torch.copies == 0


@scenario
def the_scale_follows_from_the_head_dim_when_none_is_given(torch: Torch, fake: FakeDriver) -> None:
    for head_dim in (1, 59, 64, 96, 128):
        scales = []
        for softmax_scale in (None, head_dim**-0.5):
            assert torch.call(_square(torch, head_dim), softmax_scale)[0] is None
            scales.append(fake.launches[-1].params.scale_log2)
            assert torch.general(*_square(torch, head_dim), softmax_scale=softmax_scale)[0] is None
            scales.append(fake.launches[-1].params.scale_log2)
        assert len(set(scales)) == 1
        assert scales[0] > 0
    thrown, _ = torch.call(_square(torch, 0), None)
    assert thrown == "flash_attn3: q has head_dim 0; it should be positive"


def _square(torch: Torch, head_dim: int) -> list[ctypes._Pointer[TorchTensor]]:
    return [torch.tensor((1, 8, 2, head_dim)) for _ in range(3)]


@scenario
def readable_layouts_are_not_copied(torch: Torch) -> None:
    _, k, v = torch.qkv()
    q = torch.tensor((2, 256, 4, 128), (256 * 1536, 1536, 128, 1))
    assert torch.call([q, k, v])[0] is None
    assert torch.copies == 0


@scenario
def other_layouts_are_copied(torch: Torch, fake: FakeDriver) -> None:
    for stride in ((2 * 384 * 130, 260, 130, 1), (98304, 1, 49152, 384)):
        q, _, v = torch.qkv()
        k = torch.tensor((2, 384, 2, 128), stride)
        address, alive = k.contents.data, torch.alive
        copies = torch.copies
        assert torch.call([q, k, v])[0] is None
        assert torch.copies == copies + 1
        assert torch.alive == alive - 3 + 2  # the copy is gone, too
        k_map = fake.encodes_of(fake.launches[-1])[1]
        assert k_map.address != address
        assert tuple(k_map.strides) == (256, 512, 16, 384 * 512)


@scenario
def empty_results_need_no_launch(torch: Torch, fake: FakeDriver) -> None:
    q = torch.tensor((2, 0, 4, 128))
    _, k, v = torch.qkv()
    thrown, (out, lse) = torch.call([q, k, v])
    assert thrown is None
    assert (out.shape, lse.shape) == ((2, 0, 4, 128), (2, 4, 0))
    assert not fake.launches


@scenario
def errors_release_every_tensor(torch: Torch, fake: FakeDriver) -> None:
    def thrown(tensors: list[ctypes._Pointer[TorchTensor]], **arguments: float) -> str | None:
        message, _ = torch.call(tensors, **arguments)
        assert torch.alive == 0  # the arguments were the operator's to delete
        return message

    q, k, v = torch.qkv()
    torch.library.aoti_torch_delete_tensor_object(k)
    k = torch.tensor((2, 384, 2, 128), device=(CUDA, 1))
    assert thrown([q, k, v]) == "flash_attn3: k is on cuda:1; it should be on cuda:0, as q is"
    q, k, v = torch.qkv()
    torch.library.aoti_torch_delete_tensor_object(v)
    v = torch.tensor((2, 384, 2, 128), device=(CPU, -1))
    assert thrown([q, k, v]) == "flash_attn3: v is on cpu; it should be on cuda:0, as q is"
    cpu = torch.qkv(device=(CPU, -1))
    assert thrown(cpu, key=CPU) == "flash_attn3: q is on cpu, but this operator needs CUDA tensors"
    other = torch.qkv(device=(12, 3))
    assert thrown(other) == (
        "flash_attn3: q is on number 12 of torch's device types, but this operator needs CUDA tensors"
    )
    # What the runtime refuses after the results were allocated.
    assert thrown(torch.qkv(), sm_margin=500) == (
        "flash_attn3: sm_margin is 500; it should be less than the 132 multiprocessors of device 0"
    )
    missing = thrown(torch.qkv(dtype=FLOAT16), causal=True)
    assert missing is not None
    assert missing.startswith("flash_attn3: no fwd kernel for fp16, head_dim 128,")
    fake.fail("cuLaunchKernelEx")
    assert thrown(torch.qkv()) == (
        "flash_attn3: cuLaunchKernelEx failed with CUDA_ERROR_UNKNOWN (999): made to fail"
    )


@scenario
def failed_allocations_are_told(torch: Torch) -> None:
    calls = (lambda: torch.call(torch.qkv()), lambda: torch.general(*torch.qkv()))
    for call, (number, name) in itertools.product(calls, ((1, "out"), (2, "lse"))):
        torch.library.fake_fail_allocation(number)
        thrown, _ = call()
        assert thrown == f"flash_attn3: {name} could not be allocated: CUDA out of memory"
        assert torch.alive == 0
    q, k, v = torch.qkv()
    torch.library.aoti_torch_delete_tensor_object(v)
    v = torch.tensor((2, 384, 2, 128), (98304, 1, 49152, 384))
    torch.library.fake_fail_allocation(1)
    assert torch.call([q, k, v])[0] == "flash_attn3: v could not be allocated: CUDA out of memory"
    assert torch.alive == 0


def padded(shape: tuple[int, ...], last: int) -> tuple[int, ...]:
    """Strides of a contiguous tensor whose last extent were `last`."""
    return contiguous(*shape[:-1], last)


@scenario
def odd_head_dims_are_padded(torch: Torch, fake: FakeDriver) -> None:
    shapes = ((2, 256, 4, 59), (2, 384, 2, 59), (2, 384, 2, 61))
    for call in (torch.call, lambda tensors: torch.general(*tensors)):
        copies = torch.copies
        thrown, (out, _) = call([torch.tensor(shape) for shape in shapes])
        assert thrown is None
        assert torch.copies == copies + 3
        assert (out.shape, out.stride) == ((2, 256, 4, 61), padded(out.shape, 64))
        q, k, v, out_map = fake.encodes_of(fake.launches[-1])
        assert [encoded.extents[0] for encoded in (q, k, v, out_map)] == [59, 59, 61, 61]
        assert [encoded.strides[1] for encoded in (q, k, v, out_map)] == [512, 256, 256, 512]
        torch.release(out)
    # A slice of wider rows is read where it is.
    args = [torch.tensor(shape, padded(shape, 64)) for shape in shapes]
    assert torch.call(args)[0] is None
    assert torch.copies == copies + 3


@scenario
def the_general_operator_does_what_the_plain_one_does(torch: Torch, fake: FakeDriver) -> None:
    for causal in (False, True):
        tensors = [torch.qkv(), torch.qkv()]
        assert torch.call(tensors[0], causal=causal)[0] is None
        thrown, (out, lse) = torch.general(*tensors[1], causal=causal)
        assert thrown is None
        assert (out.shape, lse.shape) == ((2, 256, 4, 128), (2, 4, 256))
        plain, general = (bytes(launch.params)[16 * 8 * 4 + 4 * 32 + 8 :] for launch in fake.launches[-2:])
        assert plain == general
        assert fake.kernel(fake.launches[-1]) == KERNELS[causal].name


@scenario
def the_shorter_operators_do_what_the_general_one_does(torch: Torch, fake: FakeDriver) -> None:
    """With every argument that they have, and none of those that they lack."""
    fields = (
        *("batch", "heads_q", "heads_kv", "seqlen_q", "seqlen_k", "ragged_q", "ragged_k"),
        *("window_left", "window_right", "attention_chunk", "softcap_scale", "scale_log2", "count"),
    )

    def launched(
        operator: str,
        shapes: tuple[tuple[int, ...], ...],
        arrays: dict[str, tuple[int, int]],
        **numbers: object,
    ) -> tuple[object, ...]:
        q, k, v = (torch.tensor(shape) for shape in (*shapes, shapes[1]))
        tensors = {name: torch.tensor((size,), dtype=dtype) for name, (size, dtype) in arrays.items()}
        addresses = {name: tensor.contents.data for name, tensor in tensors.items()}
        thrown, results = torch.general(q, k, v, operator=operator, causal=True, **tensors, **numbers)
        assert (thrown, torch.alive) == (None, 2)
        launch = fake.launches[-1]
        assert {name: getattr(launch.params, name) for name in addresses} == addresses
        described = [result.shape for result in results]
        for result in results:
            torch.release(result)
        return (
            fake.kernel(launch),
            launch.grid[0],
            described,
            [getattr(launch.params, name) for name in fields],
        )

    numbers = {"window_left": 33, "window_right": 44, "softcap": 2.0, "attention_chunk": 55, "sm_margin": 130}
    arrays = {"sink": (4, FLOAT32)}
    masked = ((2, 256, 4, 128), (2, 384, 2, 128)), arrays
    assert launched("fwd_masked", *masked, **numbers) == launched("fwd_general", *masked, **numbers)
    starts = {"cu_seqlens_q": (4, INT32), "cu_seqlens_k": (4, INT32)}
    packed = ((300, 4, 128), (500, 2, 128)), arrays | starts
    numbers |= {"max_seqlen_q": 111, "max_seqlen_k": 222}
    assert launched("fwd_varlen", *packed, **numbers) == launched("fwd_general", *packed, **numbers)
    thrown, _ = torch.general(*torch.qkv(), operator="fwd_masked", sink=torch.tensor((3,), dtype=FLOAT32))
    assert thrown == "flash_attn3: sink has 3 elements; it should have 4: (heads,)"
    assert torch.alive == 0


@scenario
def every_argument_arrives(torch: Torch, fake: FakeDriver) -> None:
    """Each under its own name, and every tensor that came in a box is deleted once."""
    names = ("cu_seqlens_q", "cu_seqlens_k", "seqused_q", "seqused_k")
    sizes = (4, 4, 3, 3)
    arrays = {name: torch.tensor((size,), dtype=INT32) for name, size in zip(names, sizes, strict=True)}
    arrays["sink"] = torch.tensor((4,), dtype=FLOAT32)
    addresses = {name: array.contents.data for name, array in arrays.items()}
    thrown, (out, lse) = torch.general(
        torch.tensor((300, 4, 128)),
        torch.tensor((500, 2, 128)),
        torch.tensor((500, 2, 128)),
        **arrays,
        max_seqlen_q=111,
        max_seqlen_k=222,
        softmax_scale=0.5,
        causal=True,
        window_left=33,
        window_right=44,
        attention_chunk=55,
        softcap=2.0,
        sm_margin=130,
    )
    assert thrown is None
    assert (out.shape, out.dtype, out.stride) == ((300, 4, 128), BFLOAT16, contiguous(300, 4, 128))
    assert (lse.shape, lse.dtype) == ((4, 300), FLOAT32)
    assert torch.alive == 2
    (launch,) = fake.launches
    params = launch.params
    assert {name: getattr(params, name) for name in addresses} == addresses
    assert params.page_table == 0
    assert (params.batch, params.heads_q, params.heads_kv) == (3, 4, 2)
    assert (params.seqlen_q, params.seqlen_k) == (111, 222)
    assert (params.window_left, params.window_right, params.attention_chunk) == (33, 0, 55)
    assert (params.softcap_scale, round(params.scale_log2, 5)) == (0.25, 2.88539)
    assert (launch.grid[0], fake.kernel(launch)) == (2, LOCAL.name)
    assert params.lse.data == lse.data
    assert (params.lse.stride_batch, params.lse.stride_head) == (0, 300)


@scenario
def windows_keep_their_sides(torch: Torch, fake: FakeDriver) -> None:
    assert torch.general(*torch.qkv(), window_left=-7, window_right=44)[0] is None
    params = fake.launches[-1].params
    assert (params.window_left, params.window_right) == (-1, 44)


@scenario
def page_tables(torch: Torch, fake: FakeDriver) -> None:
    def call(table: ctypes._Pointer[TorchTensor], pages: int = 9) -> str | None:
        q = torch.tensor((2, 256, 4, 128))
        k, v = (torch.tensor((pages, 48, 2, 128)) for _ in range(2))
        return torch.general(q, k, v, seqused_k=torch.tensor((2,), dtype=INT32), page_table=table)[0]

    table = torch.tensor((2, 7), (10, 1), dtype=INT32)
    address = table.contents.data
    assert call(table) is None
    params = fake.launches[-1].params
    assert (params.page_table, params.page_table_stride) == (address, 10)
    assert (params.page_size, params.seqlen_k, params.batch) == (48, 7 * 48, 2)
    # Without columns there is nothing to attend to, though there are pages.
    empty = torch.tensor((2, 0), dtype=INT32)
    empty.contents.data = None
    assert call(empty) is None
    params = fake.launches[-1].params
    assert (params.seqlen_k, params.ragged_k) == (0, 1)
    assert params.page_table != 0
    rule = "flash_attn3: page_table has "
    assert call(torch.tensor((3, 7), dtype=INT32)) == rule + "batch 3; it should be 2, as in q"
    assert call(torch.tensor((2, 7), (1, 2), dtype=INT32)) == rule + "last stride 2; it should be 1"
    assert call(torch.tensor((2,), dtype=INT32)) == (
        rule + "1 dimensions; it should have 2: (batch, columns)"
    )
    assert call(torch.tensor((2, 2**31), (8, 1), dtype=INT32)) == (
        "flash_attn3: k has a seqlen of up to 2147483647; it should be at most 1073741824"
    )
    q, k, v = torch.qkv()
    thrown, _ = torch.general(q, k, v, page_table=torch.tensor((2, 7), dtype=INT32))
    assert thrown is not None
    assert thrown.startswith("flash_attn3: seqused_k is missing; with a page_table it should give")
    q, k, v = torch.qkv()
    both = {name: torch.tensor((3,), dtype=INT32) for name in ("cu_seqlens_k",)}
    thrown, _ = torch.general(q, k, v, page_table=torch.tensor((2, 7), dtype=INT32), **both)
    assert thrown is not None
    assert thrown.startswith("flash_attn3: cu_seqlens_k is given; with a page_table it should be null")


@scenario
def index_tensors_are_checked(torch: Torch) -> None:
    def thrown(**changes: object) -> str | None:
        message, _ = torch.general(*torch.qkv(), **changes)
        assert torch.alive == 0
        return message

    assert thrown(seqused_q=torch.tensor((2,), (2,), dtype=INT32)) == (
        "flash_attn3: seqused_q has stride 2; it should be contiguous"
    )
    assert thrown(seqused_q=torch.tensor((2,), dtype=INT32, device=(CUDA, 1))) == (
        "flash_attn3: seqused_q is on cuda:1; it should be on cuda:0, as q is"
    )
    assert thrown(sink=torch.tensor((4,), dtype=FLOAT32, device=(CPU, -1))) == (
        "flash_attn3: sink is on cpu; it should be on cuda:0, as q is"
    )
    assert thrown(sink=torch.tensor((4, 1), dtype=FLOAT32)) == (
        "flash_attn3: sink has 2 dimensions; it should have 1: (heads,)"
    )
    for name in ("max_seqlen_q", "max_seqlen_k", "attention_chunk", "sm_margin"):
        assert thrown(**{name: -1}) == f"flash_attn3: {name} is -1; it should be between 0 and 2147483647"
    for name in ("window_left", "window_right"):
        assert thrown(**{name: 2**31}) == (
            f"flash_attn3: {name} is 2147483648; it should be between -2147483648 and 2147483647"
        )
    message = thrown(softcap=-1.0)
    assert message is not None
    assert message.startswith("flash_attn3: softcap is -1; it should be 0, or positive")


@scenario
def ragged_layouts_are_copied_when_they_must_be(torch: Torch, fake: FakeDriver) -> None:
    """The kernel steps through the slots of q and out alike; k and v are read where they lie."""
    apart = (4 * 256 * 128, 128, 256 * 128, 1)  # of (batch, heads, seqlen, head_dim)
    lengths = ("seqused_q", "seqused_k")

    def copies(q_stride: tuple[int, ...] | None, v_stride: tuple[int, ...] | None) -> int:
        before = torch.copies
        q = torch.tensor((2, 256, 4, 128), q_stride)
        k = torch.tensor((2, 256, 4, 128))
        v = torch.tensor((2, 256, 4, 128), v_stride)
        used = {name: torch.tensor((2,), dtype=INT32) for name in lengths}
        thrown, (out, lse) = torch.general(q, k, v, **used)
        assert thrown is None
        params = fake.launches[-1].params
        assert params.rows_per_batch_q == 256
        torch.release(out)
        torch.release(lse)
        assert torch.alive == 0
        return torch.copies - before

    assert copies(None, None) == 0
    assert copies(apart, None) == 1
    assert copies(None, apart) == 0
    assert copies(None, (256 * 512 + 8, 512, 128, 1)) == 0  # no whole rows between
    assert copies(None, (256 * 513, 513, 128, 1)) == 1  # small enough: 0.5 MiB
    assert copies((128 * 4, 2 * 128 * 4, 128, 1), None) == 1  # (seqlen, batch, ...): no whole rows between
    assert copies((3 * 256 * 512, 3 * 512, 128, 1), None) == 0  # of a packed q, k, v


@scenario
def large_caches_are_never_copied(torch: Torch, fake: FakeDriver) -> None:
    def refusal(pages: int, stride: tuple[int, ...] | None, argument: str) -> str | None:
        copies, launches = torch.copies, len(fake.launches)
        shape = (pages, 16, 4, 128)
        cache = {name: torch.tensor(shape, stride if name == argument else None) for name in ("k", "v")}
        thrown, results = torch.general(
            *(torch.tensor((2, 1, 4, 128)), cache["k"], cache["v"]),
            seqused_k=torch.tensor((2,), dtype=INT32),
            page_table=torch.tensor((2, 4), dtype=INT32),
            max_seqlen_k=64,
        )
        for result in results:
            torch.release(result)
        assert torch.alive == 0
        assert (thrown is None) == (len(fake.launches) > launches)
        assert pages < 1024 or torch.copies == copies
        return thrown

    for argument in ("k", "v"):
        assert refusal(1024, (3 * 16 * 512 + 8, 512, 128, 1), argument) is None
        for stride, problem in (
            ((16 * 513, 513, 128, 1), "stride 513 in its page_size dimension"),
            ((16 * 512 * 2, 512 * 2, 128 * 2, 2), "stride 2 in its head_dim dimension"),
        ):
            message = refusal(1024, stride, argument)
            assert message is not None
            assert message.startswith(f"flash_attn3: {argument} has {problem}; it should be ")
            assert message.endswith("; a cache of 16 MiB or more is not copied")
            assert refusal(1023, stride, argument) is None  # 15.98 MiB


@scenario
def results_are_written_where_they_are_wanted(torch: Torch, fake: FakeDriver) -> None:
    stride = (4 * 256 * 128, 128, 256 * 128, 1)
    out = torch.tensor((2, 256, 4, 128), stride)
    address = out.contents.data
    thrown, (lse,) = torch.general(*torch.qkv(), out=out)
    assert thrown is None
    assert (lse.shape, torch.alive) == ((2, 4, 256), 1)  # the caller has a handle of its own for out
    encoded = fake.encodes_of(fake.launches[-1])[3]
    assert (encoded.address, tuple(encoded.strides)) == (address, (65536, 256, 16, 262144))
    assert torch.copies == 0
    torch.release(lse)
    # q is brought to out's slots, if that helps.
    used = torch.tensor((2,), dtype=INT32)
    q, k, v = torch.qkv()
    torch.release(q.contents)
    q = torch.tensor((2, 256, 4, 128), stride)
    thrown, (lse,) = torch.general(q, k, v, seqused_q=used, out=torch.tensor((2, 256, 4, 128)))
    assert (thrown, torch.copies) == (None, 1)
    torch.release(lse)
    refusals = {
        "has seqlen 255; it should be 256, as in q": torch.tensor((2, 255, 4, 128)),
        "has head_dim 64; it should be 128, as in v": torch.tensor((2, 256, 4, 64)),
        "has 3 dimensions; it should have 4: (batch, seqlen, heads, head_dim)": torch.tensor((256, 4, 128)),
        "has dtype float16; it should be bfloat16, as in q": torch.tensor((2, 256, 4, 128), dtype=FLOAT16),
        "is on cuda:1; it should be on cuda:0, as q is": torch.tensor((2, 256, 4, 128), device=(CUDA, 1)),
        "has stride 2 in its head_dim dimension; it should be 1": torch.tensor(
            (2, 256, 4, 128), (2**20, 1024, 256, 2)
        ),
        "has stride 0 in its heads dimension; it should have room for every element": torch.tensor(
            (2, 256, 4, 128), (2**20, 1024, 0, 1)
        ),
    }
    for message, bad in refusals.items():
        assert torch.general(*torch.qkv(), out=bad)[0] == f"flash_attn3: out {message}"
    thrown, _ = torch.general(*torch.qkv(), out=torch.tensor((2, 256, 4, 128), (2**20, 1036, 128, 1)))
    assert thrown is not None
    assert thrown.startswith(
        "flash_attn3: out has stride 1036 in its seqlen dimension; it should be a multiple"
    )
    assert torch.alive == 0


@scenario
def results_that_no_kernel_can_write_in_place_are_copied_there(torch: Torch, fake: FakeDriver) -> None:
    def written_through_a_copy(head_dim_v: int, out: ctypes._Pointer[TorchTensor], **options: object) -> bool:
        address, copies = out.contents.data, torch.copies
        q, k, v = torch.qkv()
        torch.release(v.contents)
        v = torch.tensor((2, 384, 2, head_dim_v), (2 * 384 * 128, 2 * 128, 128, 1))
        thrown, (lse,) = torch.general(q, k, v, out=out, **options)
        assert thrown is None
        torch.release(lse)
        return fake.encodes_of(fake.launches[-1])[3].address != address and torch.copies == copies + 1

    rows = (256 * 4 * 128, 4 * 128, 128, 1)
    assert not written_through_a_copy(120, torch.tensor((2, 256, 4, 120), rows))
    # What lies behind a row of odd width is the caller's, and such rows may begin anywhere.
    assert written_through_a_copy(119, torch.tensor((2, 256, 4, 119), rows))
    assert written_through_a_copy(119, torch.tensor((2, 256, 4, 119)))
    # Slots that neither q's nor those of a copy of q are like.
    slots = torch.tensor((2, 256, 4, 128), (4 * 256 * 128, 128, 256 * 128, 1))
    assert written_through_a_copy(128, slots, seqused_q=torch.tensor((2,), dtype=INT32))
    assert torch.alive == 0


@scenario
def batches_of_nothing_are_taken(torch: Torch, fake: FakeDriver) -> None:
    q, k, v = (torch.tensor((0, heads, 128)) for heads in (4, 2, 2))
    starts = [torch.tensor((1,), dtype=INT32) for _ in range(2)]
    thrown, (out, lse) = torch.general(q, k, v, cu_seqlens_q=starts[0], cu_seqlens_k=starts[1])
    assert thrown is None
    assert (out.shape, lse.shape) == ((0, 4, 128), (4, 0))
    q, k, v = (torch.tensor((0, 16, heads, 128)) for heads in (4, 2, 2))
    used = torch.tensor((0,), dtype=INT32)
    used.contents.data = None
    assert torch.general(q, k, v, seqused_k=used)[0] is None
    assert not fake.launches


@scenario
def a_torch_without_cuda_is_named(torch: Torch) -> None:
    """Run without the double of libtorch_cuda.so."""
    thrown, _ = torch.call(torch.qkv())
    assert thrown is not None
    assert thrown.startswith("flash_attn3: this torch has no libtorch_cuda.so")
    assert torch.alive == 0


if __name__ == "__main__":
    run_operator(*sys.argv[1:], SCENARIOS)
