"""One row of the kernel table + one toolkit -> one image, a cubin or PTX, and its resource report.

Run as a program, it is what the build graph calls:
`python -m kernels.build.compile --variant NAME --toolkit SITE --image OUT --report OUT.json`.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import json
import re
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kernels.build.toolkit import Toolkit, find_toolkit
from kernels.errors import CompileError, GateError, KernelsError
from kernels.table.candidates import row_named

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
_INCLUDE = re.compile(rb'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)


@dataclass(frozen=True)
class ResourceReport:
    """What the assembler said of one kernel. Registers a thread at launch; memory in bytes.

    PTX is assembled on the user's machine: its report has no such word, `assembled` is false, and what only
    the assembler knows is None.
    """

    variant: str
    toolkit: str
    assembled: bool
    registers: int | None
    barriers: int | None
    stack_bytes: int | None
    spill_store_bytes: int | None
    spill_load_bytes: int | None
    dynamic_smem_bytes: int
    static_smem_bytes: int | None
    image_bytes: int
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Compiled:
    """An image, a cubin or PTX with the zero byte that ends it, with its report."""

    image: bytes
    report: ResourceReport


def source_files(variant: Variant) -> tuple[Path, ...]:
    """Return the kernel's file and every file of ours that it includes, sorted."""
    found: set[Path] = set()
    waiting = [DEVICE_DIR / variant.source]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.add(path)
        waiting += [DEVICE_DIR / name.decode() for name in _INCLUDE.findall(path.read_bytes())]
    return tuple(sorted(found))


def _options(variant: Variant) -> tuple[str, ...]:
    macros = tuple(f"-D{name}={value}" for name, value in variant.macros)
    if variant.code == "ptx":
        return (f"-arch=compute_{variant.sm}", *OPTIONS, *macros)
    return (f"-arch=sm_{variant.sm}", *OPTIONS, *ASSEMBLER_OPTIONS, *macros)


def inputs_digest(variant: Variant, toolkit: Toolkit) -> str:
    """Hash everything that decides the image: sources, options (which hold the row) and toolkit."""
    state = hashlib.sha256()
    for path in source_files(variant):
        state.update(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    state.update("\n".join((*_options(variant), repr(variant.allow), toolkit.digest)).encode())
    return state.hexdigest()


class _Nvrtc:
    """The few calls of the compiler library that this module makes."""

    def __init__(self, toolkit: Toolkit) -> None:
        # The compiler opens its companion by name alone; a copy already in the process answers to that name.
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
        """Return image (`CUBIN` or `PTX`) and log; an empty image when the source was refused."""
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
    """Compile one row and hold it to the gates.

    Raises:
        CompileError: The compiler refused it; the message carries its log.
        GateError: It spills, touches local memory or serialises its wgmma, and the row does not allow that.
    """
    includes = (*toolkit.include_dirs, DEVICE_DIR)
    options = (*_options(variant), *(f"-I{path}" for path in includes))
    source = (DEVICE_DIR / variant.source).read_text(encoding="utf-8")
    image, log = _Nvrtc(toolkit).compile(source, variant.source, options, variant.code.upper())
    if not image:
        raise CompileError(f"variant {variant.name}: CUDA {toolkit.name} refused it:\n{log.strip()}")
    if variant.code == "ptx":
        return Compiled(image, _unassembled(variant, toolkit.name, len(image), log))
    report = read_report(variant, toolkit.name, len(image), log)
    check_gates(variant, report)
    return Compiled(image, report)


def _unassembled(variant: Variant, toolkit: str, image_bytes: int, log: str) -> ResourceReport:
    return ResourceReport(
        variant=variant.name,
        toolkit=toolkit,
        assembled=False,
        registers=None,
        barriers=None,
        stack_bytes=None,
        spill_store_bytes=None,
        spill_load_bytes=None,
        dynamic_smem_bytes=variant.smem_bytes,
        static_smem_bytes=None,
        image_bytes=image_bytes,
        warnings=_warnings(log),
    )


def _warnings(log: str) -> tuple[str, ...]:
    return tuple(
        line.strip() for line in log.splitlines() if "warning" in line.lower() or re.search(r"\(C\d+\)", line)
    )


def read_report(variant: Variant, toolkit: str, image_bytes: int, log: str) -> ResourceReport:
    """Read the assembler's words on one kernel.

    Raises:
        GateError: They are not there: a kernel that was not judged has not passed.
    """
    frame = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", log)
    used = re.search(r"Used (\d+) registers", log)
    if frame is None or used is None:
        raise GateError(f"variant {variant.name}: CUDA {toolkit} gave no resource report:\n{log.strip()}")
    barriers = re.search(r"used (\d+) barriers", log)
    smem = re.search(r"(\d+) bytes smem", log)
    stack, stores, loads = (int(number) for number in frame.groups())
    return ResourceReport(
        variant=variant.name,
        toolkit=toolkit,
        assembled=True,
        registers=int(used[1]),
        barriers=int(barriers[1]) if barriers else 0,
        stack_bytes=stack,
        spill_store_bytes=stores,
        spill_load_bytes=loads,
        dynamic_smem_bytes=variant.smem_bytes,
        static_smem_bytes=int(smem[1]) if smem else 0,
        image_bytes=image_bytes,
        warnings=_warnings(log),
    )


def broken_gates(report: ResourceReport) -> dict[str, str]:
    """Return the gates that a kernel breaks, each with what was seen."""
    broken = {}
    if report.spill_store_bytes or report.spill_load_bytes:
        broken["spill"] = f"{report.spill_store_bytes} bytes stored, {report.spill_load_bytes} loaded"
    if report.stack_bytes or any("Local memory used" in line for line in report.warnings):
        broken["local-memory"] = f"{report.stack_bytes} bytes of stack"
    serialised = [line for line in report.warnings if re.search(r"\(C75\d\d\)", line)]
    if serialised:
        broken["wgmma"] = serialised[0]
    return broken


def check_gates(variant: Variant, report: ResourceReport) -> None:
    """Refuse a kernel that breaks a gate which its row does not allow.

    Raises:
        GateError: Names the variant and every gate.
    """
    allowed = {gate for gate, _reason in variant.allow}
    broken = {gate: seen for gate, seen in broken_gates(report).items() if gate not in allowed}
    if broken:
        seen = "; ".join(f"{gate}: {what}" for gate, what in broken.items())
        raise GateError(f"variant {variant.name}: CUDA {report.toolkit}: {seen}")


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(path.name + ".partial")
    temporary.write_bytes(data)
    temporary.replace(path)


def main(argv: Sequence[str] | None = None) -> int:
    """Compile one variant to two files; return the process exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m kernels.build.compile", description="Compile one row of the table, or a candidate."
    )
    parser.add_argument("--variant", required=True, help="its name, such as fwd_sm90_bf16_d128_causal")
    parser.add_argument("--toolkit", required=True, type=Path, help="folder of unpacked toolkit wheels")
    parser.add_argument("--image", required=True, type=Path, help="the cubin or PTX to write")
    parser.add_argument(
        "--report", required=True, type=Path, help="the JSON report on its resources to write"
    )
    arguments = parser.parse_args(argv)
    try:
        variant = row_named(arguments.variant)
        compiled = compile_variant(variant, find_toolkit(arguments.toolkit.resolve()))
    except KernelsError as error:
        print(f"kernels: error: {error}", file=sys.stderr)
        return error.exit_code
    _write(arguments.image, compiled.image)
    _write(arguments.report, (json.dumps(asdict(compiled.report), indent=1, sort_keys=True) + "\n").encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
