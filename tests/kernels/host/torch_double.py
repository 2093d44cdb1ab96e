"""The double of torch that the operator library is linked to, as its scenarios call it."""

from __future__ import annotations

import ctypes
import struct
from typing import TYPE_CHECKING

from tests.kernels.host.fake_driver import FakeDriver
from tests.kernels.host.host_api import ARGUMENTS, contiguous, run_with

if TYPE_CHECKING:
    from collections.abc import Callable

CPU, CUDA = 0, 1
INT32, FLOAT16, FLOAT32, BFLOAT16 = 3, 5, 6, 15


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

    @property
    def stride(self) -> tuple[int, ...]:
        return tuple(self.strides[: self.rank])


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
        softmax_scale: float | None = 0.5,
        causal: bool = False,
        sm_margin: int = 0,
        key: int = CUDA,
    ) -> tuple[str | None, list[TorchTensor]]:
        """What the operator threw, or its two results."""
        stack = [*map(handle, tensors), self.scale(softmax_scale), int(causal), sm_margin]
        return self.run("fwd", stack, 2, key)

    def general(
        self,
        q: ctypes._Pointer[TorchTensor],
        k: ctypes._Pointer[TorchTensor],
        v: ctypes._Pointer[TorchTensor],
        *,
        out: ctypes._Pointer[TorchTensor] | None = None,
        key: int = CUDA,
        operator: str = "fwd_general",
        **changes: object,
    ) -> tuple[str | None, list[TorchTensor]]:
        """Call an operator with options, or with `out` `fwd_into`, with arguments by name."""
        known = ARGUMENTS[operator]
        assert changes.keys() <= known.keys()
        softmax_scale, *others = (known | changes).values()
        stack = [*map(handle, (q, k, v)), self.scale(softmax_scale), *map(self._slot, others)]
        if out is None:
            return self.run(operator, stack, 2, key)
        return self.run("fwd_into", [handle(out), *stack], 1, key)

    def scale(self, softmax_scale: object) -> int:
        """An optional float as it lies on torch's stack."""
        return self._box(bits(softmax_scale)) if isinstance(softmax_scale, float) else 0

    def _box(self, value: int) -> int:
        return self.library.fake_box(ctypes.c_uint64(value))

    def _slot(self, argument: object) -> int:
        if argument is None:
            return 0
        if isinstance(argument, (int, float)):
            return bits(argument) if isinstance(argument, float) else argument % 2**64
        return self._box(handle(argument))

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

    def release(self, tensor: TorchTensor) -> None:
        self.library.aoti_torch_delete_tensor_object(ctypes.byref(tensor))

    @property
    def alive(self) -> int:
        return self.library.fake_alive()

    @property
    def copies(self) -> int:
        return self.library.fake_copies()


def run_operator(name: str, library: str, scenarios: dict[str, Callable[..., None]]) -> None:
    torch = Torch()
    if name != "a_torch_without_cuda_is_named":
        ctypes.CDLL("libtorch_cuda.so")
    fake = FakeDriver()
    ctypes.CDLL(library)
    run_with(scenarios[name], torch=torch, fake=fake)
