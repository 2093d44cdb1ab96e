"""Loads ``libflash_attn3.so`` and calls its functions through ctypes; torch is not involved."""

from __future__ import annotations

import ctypes
import enum
import functools
from pathlib import Path
from typing import Any

_LIBRARY = Path(__file__).parents[1] / "lib" / "libflash_attn3.so"
_ERROR_SIZE = 1024


class Status(enum.IntEnum):
    """``fa3_status``."""

    OK = 0
    INVALID_ARGUMENT = 1
    UNSUPPORTED = 2
    NO_DRIVER = 3
    BAD_PACK = 4
    DRIVER_ERROR = 5


class NativeError(RuntimeError):
    """A function of the C ABI returned a status other than ``FA3_OK``; the text is the library's."""

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(message)
        self.status = status


@functools.cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(str(_LIBRARY))
    library.fa3_version.restype = ctypes.c_char_p
    return library


def call(function: str, *arguments: Any) -> None:
    """Call a function that ends with ``char* error, size_t error_size``.

    Args:
        function: its name.
        arguments: those before the last two; ctypes values, bytes for ``const char*``, None for null.

    Raises:
        NativeError: it returned another status than ``FA3_OK``.
    """
    error = ctypes.create_string_buffer(_ERROR_SIZE)
    status = getattr(_library(), function)(*arguments, error, ctypes.c_size_t(_ERROR_SIZE))
    if status != Status.OK:
        raise NativeError(Status(status), error.value.decode(errors="replace"))


def call_with(function: str, arguments: ctypes.Structure, *results: Any) -> None:
    """Call a function on the arguments of an operator, whose ``struct_size`` is set here.

    Raises:
        NativeError: an argument was refused, or the driver failed.
    """
    arguments.struct_size = ctypes.sizeof(arguments)
    call(function, ctypes.byref(arguments), *results)


def version() -> str:
    """Return the version that the library was compiled as."""
    text: bytes = _library().fa3_version()
    return text.decode()


def driver() -> tuple[str, int]:
    """Return the CUDA version of the driver, for example "13.0", and the number of devices.

    Raises:
        NativeError: there is no driver, or it is too old.
    """
    number, devices = ctypes.c_int32(), ctypes.c_int32()
    call("fa3_driver", ctypes.byref(number), ctypes.byref(devices))
    return f"{number.value // 1000}.{number.value % 1000 // 10}", devices.value
