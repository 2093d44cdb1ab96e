"""The operator library against doubles of torch and of the driver: the calls that need CUDA tensors.

A scenario takes `torch`, the double, and if it names it `fake`, the driver.
"""

from __future__ import annotations

import ctypes
import inspect
import struct
import sys
from typing import TYPE_CHECKING

from tests.kernels.host.fake_driver import FakeDriver
from tests.kernels.host.host_api import KERNELS, contiguous

if TYPE_CHECKING:
    from collections.abc import Callable

CPU, CUDA = 0, 1
FLOAT16, FLOAT32, BFLOAT16 = 5, 6, 15


class TorchTensor(ctypes.Structure):
    _fields_ = (
        ("rank", ctypes.c_int64),
        ("sizes", ctypes.c_int64 * 8),
        ("strides", ctypes.c_int64 * 8),
        ("dtype", ctypes.c_int32),
        ("device_type", ctypes.c_int32),
        ("device_index", ctypes.c_int32),
        ("data", ctypes.c_void_p),
    )

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.sizes[: self.rank])


# The arguments of `fwd_general` behind q, k and v, in their order: a call that is one of `fwd`.
GENERAL: dict[str, object] = {
    "cu_seqlens_q": None,
    "cu_seqlens_k": None,
    "seqused_q": None,
    "seqused_k": None,
    "page_table": None,
    "sink": None,
    "max_seqlen_q": 0,
    "max_seqlen_k": 0,
    "softmax_scale": 0.5,
    "causal": False,
    "window_left": -1,
    "window_right": -1,
    "attention_chunk": 0,
    "softcap": 0.0,
    "sm_margin": 0,
}


def bits(number: float) -> int:
    """A float as it lies on torch's stack."""
    return struct.unpack("<Q", struct.pack("<d", number))[0]


def handle(tensor: ctypes._Pointer[TorchTensor]) -> int:
    return ctypes.addressof(tensor.contents)


class Torch:
    """The double that the operator library is linked to."""

    def __init__(self) -> None:
        self.library = ctypes.CDLL("libtorch_cpu.so")
        self.library.fake_tensor.restype = ctypes.POINTER(TorchTensor)
        self.library.fake_schema.restype = ctypes.c_char_p
        self.library.fake_call.restype = ctypes.c_char_p
        self.library.fake_box.restype = ctypes.c_uint64

    def tensor(
        self,
        shape: tuple[int, ...],
        stride: tuple[int, ...] | None = None,
        dtype: int = BFLOAT16,
        device: tuple[int, int] = (CUDA, 0),
    ) -> ctypes._Pointer[TorchTensor]:
        rank = len(shape)
        extents = (ctypes.c_int64 * rank)(*shape)
        strides = (ctypes.c_int64 * rank)(*(stride or contiguous(*shape)))
        return self.library.fake_tensor(dtype, *device, ctypes.c_int64(rank), extents, strides)

    def qkv(
        self, dtype: int = BFLOAT16, device: tuple[int, int] = (CUDA, 0)
    ) -> list[ctypes._Pointer[TorchTensor]]:
        shapes = ((2, 256, 4, 128), (2, 384, 2, 128), (2, 384, 2, 128))
        return [self.tensor(shape, dtype=dtype, device=device) for shape in shapes]

    def call(
        self,
        tensors: list[ctypes._Pointer[TorchTensor]],
        softmax_scale: float = 0.5,
        causal: bool = False,
        sm_margin: int = 0,
        key: int = CUDA,
    ) -> tuple[str | None, list[TorchTensor]]:
        """What the operator threw, or its two results."""
        stack = [*map(handle, tensors), bits(softmax_scale), int(causal), sm_margin]
        return self.run("fwd", stack, 2, key)

    def general(
        self,
        q: ctypes._Pointer[TorchTensor],
        k: ctypes._Pointer[TorchTensor],
        v: ctypes._Pointer[TorchTensor],
        *,
        out: ctypes._Pointer[TorchTensor] | None = None,
        key: int = CUDA,
        **changes: object,
    ) -> tuple[str | None, list[TorchTensor]]:
        """Call `fwd_general`, or with `out` `fwd_into`, with arguments by name."""
        assert changes.keys() <= GENERAL.keys()
        arguments = (GENERAL | changes).values()
        stack = [*map(handle, (q, k, v)), *map(self._slot, arguments)]
        if out is None:
            return self.run("fwd_general", stack, 2, key)
        return self.run("fwd_into", [*stack, handle(out)], 1, key)

    def _slot(self, argument: object) -> int:
        if argument is None:
            return 0
        if isinstance(argument, (int, float)):
            return bits(argument) if isinstance(argument, float) else argument % 2**64
        return self.library.fake_box(ctypes.c_uint64(handle(argument)))

    def run(
        self, name: str, arguments: list[int], outputs: int, key: int
    ) -> tuple[str | None, list[TorchTensor]]:
        """What the operator threw, or its results."""
        stack = (ctypes.c_uint64 * len(arguments))(*arguments)
        counts = (ctypes.c_uint64(len(arguments)), ctypes.c_uint64(outputs))
        thrown = self.library.fake_call(name.encode(), key, stack, *counts)
        assert self.boxes == 0
        if thrown is not None:
            return thrown.decode(), []
        return None, [TorchTensor.from_address(stack[i]) for i in range(outputs)]

    @property
    def boxes(self) -> int:
        """Boxes of optional arguments that nobody freed."""
        return self.library.fake_boxes()

    @property
    def alive(self) -> int:
        return self.library.fake_alive()

    @property
    def copies(self) -> int:
        return self.library.fake_copies()


SCENARIOS: dict[str, Callable[..., None]] = {}


def scenario(function: Callable[..., None]) -> Callable[..., None]:
    SCENARIOS[function.__name__] = function
    return function


@scenario
def the_operator_is_registered(torch: Torch) -> None:
    arguments = "Tensor q, Tensor k, Tensor v, float softmax_scale, bool causal, int sm_margin"
    assert torch.library.fake_schema(0).decode() == f"fwd({arguments}) -> (Tensor out, Tensor lse)"
    kinds = {
        bool: "bool",
        int: "int",
        float: "float",
        type(None): "Tensor?",
    }
    others = ", ".join(f"{kinds[type(value)]} {name}" for name, value in GENERAL.items())
    general = f"Tensor q, Tensor k, Tensor v, {others}"
    assert torch.library.fake_schema(1).decode() == f"fwd_general({general}) -> (Tensor out, Tensor lse)"
    assert torch.library.fake_schema(2).decode() == f"fwd_into({general}, Tensor(a!) out) -> Tensor lse"
    assert torch.library.fake_schema(3) is None


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
    assert launch.params.lse == lse.data
    assert [map_.address for map_ in fake.encodes_of(launch)] == [*addresses, out.data]
    assert abs(launch.params.scale_log2 - 0.25 * 1.4426950408889634) < 1e-6
    assert torch.copies == 0


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
        assert tuple(k_map.strides) == (512, 256, 16, 384 * 512)


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
    for number, name in ((1, "out"), (2, "lse")):
        torch.library.fake_fail_allocation(number)
        thrown, _ = torch.call(torch.qkv())
        assert thrown == f"flash_attn3: {name} could not be allocated: CUDA out of memory"
        assert torch.alive == 0
    q, k, v = torch.qkv()
    torch.library.aoti_torch_delete_tensor_object(v)
    v = torch.tensor((2, 384, 2, 128), (98304, 1, 49152, 384))
    torch.library.fake_fail_allocation(1)
    assert torch.call([q, k, v])[0] == "flash_attn3: v could not be allocated: CUDA out of memory"
    assert torch.alive == 0


@scenario
def a_torch_without_cuda_is_named(torch: Torch) -> None:
    """Run without the double of libtorch_cuda.so."""
    thrown, _ = torch.call(torch.qkv())
    assert thrown is not None
    assert thrown.startswith("flash_attn3: this torch has no libtorch_cuda.so")
    assert torch.alive == 0


def main(name: str, library: str) -> None:
    torch = Torch()
    if name != "a_torch_without_cuda_is_named":
        ctypes.CDLL("libtorch_cuda.so")
    fake = FakeDriver()
    ctypes.CDLL(library)
    function = SCENARIOS[name]
    available = {"torch": torch, "fake": fake}
    function(**{parameter: available[parameter] for parameter in inspect.signature(function).parameters})


if __name__ == "__main__":
    main(*sys.argv[1:])
