"""What `test_host_torch.py` runs beside `operator_scenarios.py`: `combine` and `combine_into`."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING

from tests.kernels.host.host_api import BF16, COMBINE, FP16, FP32, contiguous
from tests.kernels.host.torch_double import (
    BFLOAT16,
    CPU,
    CUDA,
    FLOAT16,
    FLOAT32,
    Torch,
    TorchTensor,
    handle,
    run_operator,
)

if TYPE_CHECKING:
    import ctypes
    from collections.abc import Callable

    from tests.kernels.host.fake_driver import FakeDriver

SHAPE = (2, 256, 4, 128)
FLOAT64 = 7

SCENARIOS: dict[str, Callable[..., None]] = {}


def scenario(function: Callable[..., None]) -> Callable[..., None]:
    SCENARIOS[function.__name__] = function
    return function


def transposed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides of (..., seqlen, heads) whose positions lie one after another."""
    *outer, seqlen, heads = shape
    *steps, _, _ = contiguous(*outer, heads, seqlen)
    return (*steps, 1, seqlen)


def parts(
    torch: Torch, shape: tuple[int, ...] = SHAPE, splits: int = 3, device: tuple[int, int] = (CUDA, 0)
) -> list[ctypes._Pointer[TorchTensor]]:
    rows = (splits, *shape[:-1])
    return [
        torch.tensor((splits, *shape), dtype=FLOAT32, device=device),
        torch.tensor(rows, transposed(rows), dtype=FLOAT32, device=device),
    ]


def combine(
    torch: Torch, tensors: list[ctypes._Pointer[TorchTensor]], dtype: int = BF16, key: int = CUDA
) -> tuple[str | None, list[TorchTensor]]:
    return torch.run("combine", [*map(handle, tensors), dtype], 2, key)


def combine_into(
    torch: Torch, tensors: list[ctypes._Pointer[TorchTensor]], out: ctypes._Pointer[TorchTensor]
) -> tuple[str | None, list[TorchTensor]]:
    return torch.run("combine_into", [*map(handle, tensors), handle(out)], 1, CUDA)


@scenario
def parts_are_joined(torch: Torch, fake: FakeDriver) -> None:
    for dtype, number in ((BFLOAT16, BF16), (FLOAT16, FP16), (FLOAT32, FP32)):
        tensors = parts(torch, device=(CUDA, 1))
        addresses = [tensor.contents.data for tensor in tensors]
        thrown, (out, lse) = combine(torch, tensors, number)
        assert thrown is None
        assert (out.shape, out.stride, out.dtype, out.device_index) == (SHAPE, contiguous(*SHAPE), dtype, 1)
        assert (lse.shape, lse.stride, lse.dtype) == ((2, 256, 4), transposed((2, 256, 4)), FLOAT32)
        assert (torch.alive, torch.copies) == (2, 0)
        launch = fake.last_launch
        params = launch.combine_params
        assert (fake.kernel(launch), launch.stream) == (COMBINE.name, 41)
        assert [params.out_partial, params.lse_partial] == addresses
        assert (params.out.data, params.lse.data) == (out.data, lse.data)
        assert (params.splits, params.batch, params.seqlen, params.heads) == (3, 2, 256, 4)
        assert (params.head_dim_v, params.out_dtype) == (128, number)
        part, lse_part = math.prod(SHAPE), math.prod(SHAPE[:3])
        assert (params.out_partial_stride_split, params.out_partial_stride_batch) == (part, part // 2)
        assert (params.out_partial_stride_row, params.out_partial_stride_head) == (512, 128)
        assert (params.lse_partial_stride_split, params.lse_partial_stride_batch) == (lse_part, lse_part // 2)
        assert (params.lse_partial_stride_head, params.lse.stride_head) == (256, 256)
        assert params.lse.stride_batch == 1024
        torch.release(out)
        torch.release(lse)


@scenario
def packed_parts_are_joined(torch: Torch, fake: FakeDriver) -> None:
    thrown, (out, lse) = combine(torch, parts(torch, (300, 4, 59)))
    assert thrown is None
    assert (out.shape, out.stride) == ((300, 4, 59), contiguous(300, 4, 59))
    assert (lse.shape, lse.stride) == ((300, 4), (1, 300))
    params = fake.last_launch.combine_params
    assert (params.batch, params.seqlen, params.heads, params.head_dim_v) == (1, 300, 4, 59)
    assert (params.out_partial_stride_split, params.out_partial_stride_row) == (300 * 4 * 59, 4 * 59)
    assert (params.lse_partial_stride_split, params.lse_partial_stride_head) == (1200, 300)
    assert torch.copies == 0


@scenario
def layouts_that_the_kernel_cannot_read_are_copied(torch: Torch, fake: FakeDriver) -> None:
    for shape in (SHAPE, SHAPE[1:]):
        rows = (3, *shape[:-1])
        out_partial, lse_partial = parts(torch, shape)
        torch.release(lse_partial.contents)
        lse_partial = torch.tensor(rows, dtype=FLOAT32)  # heads next to each other
        copies = torch.copies
        assert combine(torch, [out_partial, lse_partial])[0] is None
        assert torch.copies == copies + 1
        params = fake.last_launch.combine_params
        assert params.lse_partial_stride_head == 256
        assert params.lse_partial_stride_split == math.prod(rows[1:])
        assert params.lse_partial_stride_batch == (1024 if shape == SHAPE else 0)
    out_partial, lse_partial = parts(torch)
    torch.release(out_partial.contents)
    wide = torch.tensor((3, *SHAPE), tuple(2 * step for step in contiguous(3, *SHAPE)), dtype=FLOAT32)
    copies = torch.copies
    assert combine(torch, [wide, lse_partial])[0] is None
    assert torch.copies == copies + 1
    assert fake.last_launch.combine_params.out_partial_stride_row == 512


@scenario
def results_are_written_where_they_are_wanted(torch: Torch, fake: FakeDriver) -> None:
    stride = (4 * 256 * 128, 128, 256 * 128, 1)
    out = torch.tensor(SHAPE, stride, dtype=FLOAT16)
    address = out.contents.data
    thrown, (lse,) = combine_into(torch, parts(torch), out)
    assert thrown is None
    assert (lse.shape, lse.stride, torch.alive) == ((2, 256, 4), transposed((2, 256, 4)), 1)
    params = fake.last_launch.combine_params
    assert (params.out.data, params.out_dtype, params.lse.data) == (address, FP16, lse.data)
    assert (params.out.stride_batch, params.out.stride_row, params.out.stride_head) == stride[:3]
    torch.release(lse)
    refusals = {
        "out has dtype float64; it should be float32, float16 or bfloat16": torch.tensor(
            SHAPE, dtype=FLOAT64
        ),
        "out has seqlen 255; it should be 256, as in out_partial": torch.tensor((2, 255, 4, 128)),
        "out has 3 dimensions; it should have 4: (batch, seqlen, heads, head_dim)": torch.tensor(SHAPE[1:]),
        "out is on cuda:1; it should be on cuda:0, as out_partial is": torch.tensor(SHAPE, device=(CUDA, 1)),
    }
    for message, bad in refusals.items():
        assert combine_into(torch, parts(torch), bad)[0] == f"flash_attn3: {message}"
    assert torch.alive == 0


@scenario
def arguments_are_checked(torch: Torch) -> None:
    def thrown(
        partial: ctypes._Pointer[TorchTensor] | None = None,
        lse: ctypes._Pointer[TorchTensor] | None = None,
        dtype: int = BF16,
    ) -> str | None:
        out_partial, lse_partial = parts(torch)
        for given, made in ((partial, out_partial), (lse, lse_partial)):
            if given is not None:
                torch.release(made.contents)
        message, _ = combine(torch, [partial or out_partial, lse or lse_partial], dtype)
        assert torch.alive == 0
        return message

    def float32(*shape: int, device: tuple[int, int] = (CUDA, 0)) -> ctypes._Pointer[TorchTensor]:
        return torch.tensor(shape, dtype=FLOAT32, device=device)

    prefix = "flash_attn3: "
    assert (
        thrown(torch.tensor((3, *SHAPE))) == f"{prefix}out_partial has dtype bfloat16; it should be float32"
    )
    assert thrown(float32(3, 4, 128)) == (
        f"{prefix}out_partial has 3 dimensions; it should have 5: (splits, batch, seqlen, heads, head_dim)"
    )
    assert thrown(lse=torch.tensor((3, 2, 256, 4))) == (
        f"{prefix}lse_partial has dtype bfloat16; it should be float32"
    )
    assert thrown(lse=float32(3, 256, 4)) == (
        f"{prefix}lse_partial has 3 dimensions; it should have 4: (splits, batch, seqlen, heads)"
    )
    assert thrown(lse=float32(3, 2, 4, 256)) == (
        f"{prefix}lse_partial has size 4 in dimension 2; it should be 256, as in out_partial: "
        "(splits, batch, seqlen, heads)"
    )
    assert thrown(lse=float32(3, 2, 256, 4, device=(CUDA, 1))) == (
        f"{prefix}lse_partial is on cuda:1; it should be on cuda:0, as out_partial is"
    )
    for number in (3, -1):
        assert thrown(dtype=number) == (
            f"{prefix}out_dtype is {number}; it should be 0 (fp16), 1 (bf16) or 2 (fp32)"
        )
    assert thrown(dtype=2**31) == (
        f"{prefix}out_dtype is 2147483648; it should be between -2147483648 and 2147483647"
    )
    assert thrown(float32(257, 2, 256, 4, 8), float32(257, 2, 256, 4)) == (
        f"{prefix}out_partial has 257 splits; it should have 1 to 256"
    )
    assert thrown(float32(3, 2, 256, 4, 513)) == (
        f"{prefix}out_partial has head_dim 513; it should be at most 512"
    )
    message, _ = combine(torch, parts(torch, device=(CPU, -1)), key=CPU)
    assert message == f"{prefix}out_partial is on cpu, but this operator needs CUDA tensors"


@scenario
def nothing_to_join_needs_no_launch(torch: Torch, fake: FakeDriver) -> None:
    thrown, (out, lse) = combine(torch, parts(torch, (2, 0, 4, 128)))
    assert thrown is None
    assert (out.shape, lse.shape) == ((2, 0, 4, 128), (2, 0, 4))
    assert fake.launch_count == 0


@scenario
def failed_allocations_are_told(torch: Torch) -> None:
    for number, name in ((1, "out"), (2, "lse")):
        torch.library.fake_fail_allocation(number)
        assert combine(torch, parts(torch))[0] == (
            f"flash_attn3: {name} could not be allocated: CUDA out of memory"
        )
        assert torch.alive == 0


if __name__ == "__main__":
    run_operator(*sys.argv[1:], SCENARIOS)
