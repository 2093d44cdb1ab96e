"""The assembler's report on one kernel, and its gates: no spills, no local memory, no serialised wgmma."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kernels.errors import GateError

if TYPE_CHECKING:
    from kernels.table import Variant


@dataclass(frozen=True)
class ResourceReport:
    """Resources of one kernel: registers a thread at launch; memory in bytes.

    `assembled` is false for PTX; what only an assembler reports is then None.
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


def unassembled_report(variant: Variant, toolkit: str, image_bytes: int, log: str) -> ResourceReport:
    """Return the report of PTX, which the user's driver assembles: it has no registers, stack or spills."""
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
    """Read the report of one kernel from the compiler's log.

    Raises:
        GateError: The log has no resource report, so that the gates cannot be checked.
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
    """Return the gates that a kernel breaks: gate -> the numbers or the warning that show it."""
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
    """Refuse a kernel that breaks a gate which `variant.allow` does not list.

    Raises:
        GateError: Names the variant and every such gate.
    """
    allowed = {gate for gate, _reason in variant.allow}
    broken = {gate: seen for gate, seen in broken_gates(report).items() if gate not in allowed}
    if broken:
        seen = "; ".join(f"{gate}: {what}" for gate, what in broken.items())
        raise GateError(f"variant {variant.name}: CUDA {report.toolkit}: {seen}")
