"""Element types of a kernel's tensors: name, number, size and C++ type. The only place that lists them."""

from __future__ import annotations

from dataclasses import dataclass

from kernels.errors import UnknownDTypeError


@dataclass(frozen=True)
class DType:
    """An element type.

    Attributes:
        name: As variants and messages write it: `bf16`.
        number: In a kernel pack and in the C ABI (`fa3_dtype`).
        bytes: Size of one element.
        cxx: Type in device code.
    """

    name: str
    number: int
    bytes: int
    cxx: str


DTYPES = (
    DType("fp16", 0, 2, "fa3::Half"),
    DType("bf16", 1, 2, "fa3::Bfloat16"),
    DType("fp32", 2, 4, "float"),
)
ANY_DTYPE = "any"
"""In place of a name: a kernel that takes the type at run time."""
_ANY_NUMBER = 255


def dtype_named(name: str) -> DType:
    """Return the element type of that name.

    Raises:
        UnknownDTypeError: There is none; the message lists the names.
    """
    for dtype in DTYPES:
        if dtype.name == name:
            return dtype
    raise UnknownDTypeError(f"dtype: got {name!r}, expected one of {', '.join(d.name for d in DTYPES)}")


def dtype_number(name: str) -> int:
    """Return the number of an element type, or of `any`, in a kernel pack.

    Raises:
        UnknownDTypeError: There is no such type.
    """
    return _ANY_NUMBER if name == ANY_DTYPE else dtype_named(name).number


def dtype_name(number: int) -> str:
    """Return the name of an element type, or `any`, by its number in a kernel pack.

    Raises:
        UnknownDTypeError: There is no such number; the message lists them.
    """
    names = {**{dtype.number: dtype.name for dtype in DTYPES}, _ANY_NUMBER: ANY_DTYPE}
    if number not in names:
        known = ", ".join(f"{known} ({name})" for known, name in names.items())
        raise UnknownDTypeError(f"dtype number: got {number}, expected one of {known}")
    return names[number]
