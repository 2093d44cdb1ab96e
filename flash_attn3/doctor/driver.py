"""The NVIDIA driver and its GPUs, through the driver's own library."""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass

_NAME_BYTES = 256
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR


@dataclass(frozen=True)
class Gpu:
    """A GPU with its SM, such as 90."""

    name: str
    sm: int


@dataclass(frozen=True)
class Driver:
    """The driver.

    Attributes:
        cuda: the CUDA version that it supports, such as ``13.0``; empty if there is no driver.
        gpus: those that it shows to this process.
        error: why they cannot be used; empty if they can.
    """

    cuda: str
    gpus: tuple[Gpu, ...]
    error: str


def inspect_driver() -> Driver:
    """Return what the driver says. Does not raise: a failure becomes the error."""
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        library = ctypes.CDLL(name)
    except OSError as error:
        return Driver("", (), f"{name} cannot be loaded: {error}")
    cuda = ""
    try:
        number = ctypes.c_int()
        _call(library, "cuDriverGetVersion", ctypes.byref(number))
        cuda = f"{number.value // 1000}.{number.value % 1000 // 10}"
        _call(library, "cuInit", 0)
        count = ctypes.c_int()
        _call(library, "cuDeviceGetCount", ctypes.byref(count))
        return Driver(cuda, tuple(_gpu(library, ordinal) for ordinal in range(count.value)), "")
    except (OSError, AttributeError) as error:  # AttributeError: the library lacks a function
        return Driver(cuda, (), str(error))


def _gpu(library: ctypes.CDLL, ordinal: int) -> Gpu:
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(_NAME_BYTES)
    _call(library, "cuDeviceGet", ctypes.byref(device), ordinal)
    _call(library, "cuDeviceGetName", name, _NAME_BYTES, device)
    _call(library, "cuDeviceGetAttribute", ctypes.byref(major), _MAJOR, device)
    _call(library, "cuDeviceGetAttribute", ctypes.byref(minor), _MINOR, device)
    return Gpu(name.value.decode(errors="replace"), 10 * major.value + minor.value)


def _call(library: ctypes.CDLL, function: str, *arguments: object) -> None:
    result = getattr(library, function)(*arguments)
    if result:
        text = ctypes.c_char_p()
        library.cuGetErrorName(result, ctypes.byref(text))
        raise OSError(f"{function} failed: {(text.value or b'?').decode(errors='replace')} ({result})")
