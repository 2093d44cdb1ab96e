"""What `test_host_torch.py` runs beside `operator_scenarios.py`: `fwd_qkvpacked`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from tests.kernels.host.host_api import contiguous
from tests.kernels.host.torch_double import (
    BFLOAT16,
    CUDA,
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

SCENARIOS: dict[str, Callable[..., None]] = {}


def scenario(function: Callable[..., None]) -> Callable[..., None]:
    SCENARIOS[function.__name__] = function
    return function


def attend(
    torch: Torch, qkv: ctypes._Pointer[TorchTensor], heads_q: int = 0
) -> tuple[str | None, list[TorchTensor]]:
    return torch.run("fwd_qkvpacked", [handle(qkv), torch.scale(0.25), 1, heads_q], 2, CUDA)


@scenario
def parts_are_read_where_they_lie(torch: Torch, fake: FakeDriver) -> None:
    """A launch is that of `fwd` with the addresses and strides of three views."""
    cases = (
        ((2, 256, 3, 4, 128), None, 0, 4, (0, 512, 1024), (1536, 128)),
        ((2, 256, 3, 4, 128), (256 * 2000, 2000, 600, 136, 1), 0, 4, (0, 600, 1200), (2000, 136)),
        ((2, 256, 8, 128), None, 4, 2, (0, 512, 768), (1024, 128)),
        ((2, 256, 8, 128), (128, 2048, 256, 1), 4, 2, (0, 1024, 1536), (2048, 256)),
    )
    for shape, stride, heads_q, heads_kv, offsets, (of_row, of_head) in cases:
        qkv = torch.tensor(shape, stride, device=(CUDA, 1))
        address, copies = qkv.contents.data, torch.copies
        thrown, (out, lse) = attend(torch, qkv, heads_q)
        assert thrown is None
        heads = heads_q or 4
        assert (out.shape, out.dtype, out.device_index) == ((2, 256, heads, 128), BFLOAT16, 1)
        assert (lse.shape, lse.dtype) == ((2, heads, 256), FLOAT32)
        assert out.stride == contiguous(*out.shape)
        assert torch.copies == copies
        launch = fake.launches[-1]
        maps = fake.encodes_of(launch)
        assert [map_.address for map_ in maps] == [*(address + 2 * offset for offset in offsets), out.data]
        for map_ in maps[:3]:
            assert tuple(map_.strides[:2]) == (2 * of_head, 2 * of_row), (shape, list(map_.strides))
        assert (launch.params.heads_q, launch.params.heads_kv) == (heads, heads_kv)
        assert abs(launch.params.scale_log2 - 0.25 * 1.4426950408889634) < 1e-6
        assert "causal" in fake.kernel(launch)
        torch.release(out)
        torch.release(lse)
        assert torch.alive == 0


@scenario
def parts_that_cannot_be_read_are_copied(torch: Torch) -> None:
    qkv = torch.tensor((2, 256, 3, 4, 128), (256 * 1537, 1537, 512, 128, 1))
    thrown, results = attend(torch, qkv)
    assert thrown is None
    assert torch.copies == 3
    assert torch.alive == len(results) == 2


@scenario
def errors_release_every_tensor(torch: Torch, fake: FakeDriver) -> None:
    refusals = {
        "qkv has size 2 in dimension 2; it should be 3": (torch.tensor((2, 256, 2, 4, 128)), 0),
        "qkv has 4 dimensions; it should have 5: (batch, seqlen, 3, heads, head_dim)": (
            torch.tensor((2, 256, 12, 128)),
            0,
        ),
        "heads_q is 5; it should leave an even number of the 12 heads of qkv": (
            torch.tensor((2, 256, 12, 128)),
            5,
        ),
        "q has dtype float32; it should be float16 or bfloat16": (
            torch.tensor((2, 256, 3, 4, 128), dtype=FLOAT32),
            0,
        ),
    }
    for message, (qkv, heads_q) in refusals.items():
        assert attend(torch, qkv, heads_q)[0] == f"flash_attn3: {message}"
    assert torch.alive == 0
    assert not fake.launches


if __name__ == "__main__":
    run_operator(*sys.argv[1:], SCENARIOS)
