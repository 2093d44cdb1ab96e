"""Compiles one variant with one toolkit to an image, a cubin or PTX, and a report of its resources.

The build graph runs it as a program:
`python -m kernels.build.compile --variant NAME --toolkit SITE --image OUT --report OUT.json`.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kernels.build.files import write_atomically
from kernels.build.includes import files_digest, included_files
from kernels.build.report import ResourceReport, check_gates, read_report, unassembled_report
from kernels.build.toolkit import Toolkit, find_toolkit
from kernels.errors import CompileError, KernelsError
from kernels.table import variant_named

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kernels.table import Variant

DEVICE_DIR = Path(__file__).parents[1] / "device"
OPTIONS = (
    "-std=c++17",
    "-default-device",  # CUTLASS declares host functions that device code calls
)
ASSEMBLER_OPTIONS = (
    "--ptxas-options=-v",
    "--ptxas-options=-warn-spills",
    "--ptxas-options=-warn-lmem-usage",
)


@dataclass(frozen=True)
class Compiled:
    """An image, a cubin or PTX with its terminating zero byte, and its report."""

    image: bytes
    report: ResourceReport


def source_files(variant: Variant) -> tuple[Path, ...]:
    """Return the kernel's source and every file of this tree that it includes, sorted."""
    return included_files((DEVICE_DIR / variant.source,), (DEVICE_DIR,))


def _options(variant: Variant) -> tuple[str, ...]:
    macros = tuple(f"-D{name}={value}" for name, value in variant.macros)
    if variant.code == "ptx":
        return (f"-arch=compute_{variant.sm}", *OPTIONS, *macros)
    return (f"-arch=sm_{variant.sm}", *OPTIONS, *ASSEMBLER_OPTIONS, *macros)


def inputs_digest(variant: Variant, toolkit: Toolkit) -> str:
    """Return the digest, in hex, of what decides the image and its gates: sources, options and toolkit.

    It is the key under which a cache keeps the image. A comment in a source changes the key, not the image.
    """
    inputs = (
        files_digest(source_files(variant), DEVICE_DIR),
        *_options(variant),
        repr(variant.allow),
        toolkit.digest,
    )
    return hashlib.sha256("\n".join(inputs).encode()).hexdigest()


class _Nvrtc:
    """The compiler library, through ctypes."""

    def __init__(self, toolkit: Toolkit) -> None:
        # The compiler opens its builtins by name; the loader then returns the copy that is already loaded.
        ctypes.CDLL(str(toolkit.builtins), mode=ctypes.RTLD_GLOBAL)
        self._library = ctypes.CDLL(str(toolkit.nvrtc))
        self._library.nvrtcGetErrorString.restype = ctypes.c_char_p

    def _check(self, status: int, call: str) -> None:
        if status != 0:
            raise CompileError(f"{call}: {self._library.nvrtcGetErrorString(status).decode()}")

    def _text(self, program: ctypes.c_void_p, what: str) -> bytes:
        size = ctypes.c_size_t()
        self._check(getattr(self._library, f"nvrtcGet{what}Size")(program, ctypes.byref(size)), what)
        buffer = ctypes.create_string_buffer(size.value)
        self._check(getattr(self._library, f"nvrtcGet{what}")(program, buffer), what)
        return buffer.raw

    def compile(self, source: str, name: str, options: Sequence[str], image: str) -> tuple[bytes, str]:
        """Return the image (`CUBIN` or `PTX`), empty if the source is refused, and the log."""
        program = ctypes.c_void_p()
        self._check(
            self._library.nvrtcCreateProgram(
                ctypes.byref(program), source.encode(), name.encode(), 0, None, None
            ),
            "nvrtcCreateProgram",
        )
        arguments = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        status = self._library.nvrtcCompileProgram(program, len(options), arguments)
        log = self._text(program, "ProgramLog").rstrip(b"\0").decode(errors="replace")
        data = self._text(program, image) if status == 0 else b""
        self._library.nvrtcDestroyProgram(ctypes.byref(program))
        return data, log


def compile_variant(variant: Variant, toolkit: Toolkit) -> Compiled:
    """Compile one variant and check its gates.

    Raises:
        CompileError: The compiler refused the source; the message carries its log.
        GateError: The kernel breaks a gate of `report.py` that the variant does not allow.
    """
    includes = (*toolkit.include_dirs, DEVICE_DIR)
    options = (*_options(variant), *(f"-I{path}" for path in includes))
    source = (DEVICE_DIR / variant.source).read_text(encoding="utf-8")
    image, log = _Nvrtc(toolkit).compile(source, variant.source, options, variant.code.upper())
    if not image:
        raise CompileError(f"variant {variant.name}: CUDA {toolkit.name} refused it:\n{log.strip()}")
    if variant.code == "ptx":
        return Compiled(image, unassembled_report(variant, toolkit.name, len(image), log))
    report = read_report(variant, toolkit.name, len(image), log)
    check_gates(variant, report)
    return Compiled(image, report)


def main(argv: Sequence[str] | None = None) -> int:
    """Compile one variant to two files; return the process exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m kernels.build.compile",
        description="Compile one variant of the kernel table, or a candidate.",
    )
    parser.add_argument("--variant", required=True, help="name, such as fwd_sm90_bf16_d128_causal")
    parser.add_argument("--toolkit", required=True, type=Path, help="folder of unpacked toolkit wheels")
    parser.add_argument("--image", required=True, type=Path, help="cubin or PTX to write")
    parser.add_argument("--report", required=True, type=Path, help="JSON report of its resources to write")
    arguments = parser.parse_args(argv)
    try:
        variant = variant_named(arguments.variant)
        compiled = compile_variant(variant, find_toolkit(arguments.toolkit.resolve()))
    except KernelsError as error:
        print(f"kernels: error: {error}", file=sys.stderr)
        return error.exit_code
    write_atomically(arguments.image, compiled.image)
    write_atomically(
        arguments.report, (json.dumps(asdict(compiled.report), indent=1, sort_keys=True) + "\n").encode()
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
