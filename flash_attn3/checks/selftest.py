"""``python -m flash_attn3 selftest``: is this install right on this GPU, and how fast is it?"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import torch

from flash_attn3 import _native, flash_attn_combine
from flash_attn3._installation import inspect_installation
from flash_attn3.checks.behaviour.canary import memory_cases, run_memory_case
from flash_attn3.checks.behaviour.promises import run_behaviour
from flash_attn3.checks.cases.catalogue import quick_cases
from flash_attn3.checks.ops.combine import combine_cases, run_combine_case
from flash_attn3.checks.ops.fwd import public_forward, run_case
from flash_attn3.checks.speed.race import Race, race
from flash_attn3.checks.speed.race_settings import Setting

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flash_attn3.checks.outcome import Outcome

PASSED, FAILED, CANNOT_JUDGE = 0, 1, 2
_BEHAVIOURS = ("repeats_equal", "many_streams", "graph_replay", "errors_then_success")


def run_selftest(device_index: int) -> int:
    """Run the quick checks on one device, print each failure and a summary, and return the exit code."""
    found = inspect_installation()
    if found.reason:
        print(f"selftest: cannot judge: {found.reason}", file=sys.stderr)
        return CANNOT_JUDGE
    if not 0 <= device_index < len(found.gpus):
        print(f"selftest: --device must be below {len(found.gpus)}; it is {device_index}", file=sys.stderr)
        return CANNOT_JUDGE
    gpu = found.gpus[device_index]
    if gpu.refusal:
        print(f"selftest: cannot judge: {gpu.refusal}", file=sys.stderr)
        return CANNOT_JUDGE
    device = torch.device("cuda", device_index)
    print(f"flash_attn3 {found.version} on {gpu.name}, torch {found.torch}")
    start, checks, failed = time.monotonic(), 0, 0
    with torch.cuda.device(device):
        for outcome in _outcomes(device):
            checks += 1
            failed += not outcome.passed
            for failure in outcome.failures:
                print(f"FAILED {outcome.section} {outcome.name}: {failure}")
        raced = race(_setting(), device, rounds=11)
    failed += bool(raced.failures)
    print(_speed_line(raced))
    verdict = f"{failed} of {checks + 1} checks failed" if failed else f"{checks + 1} checks passed"
    print(f"selftest: {verdict} in {time.monotonic() - start:.0f} s")
    return FAILED if failed else PASSED


def _outcomes(device: torch.device) -> Iterator[Outcome]:
    for case in quick_cases():
        yield run_case(case, public_forward, device)
    if any(kernel.op == "combine" for kernel in _native.kernels()):
        for combine_case in combine_cases(quick=True)[::10]:
            yield run_combine_case(combine_case, flash_attn_combine, device)
    for memory_case, layout in memory_cases()[::3]:
        yield run_memory_case(memory_case, layout, public_forward, device)
    for name in _BEHAVIOURS:
        yield run_behaviour(name, public_forward, device)


def _setting() -> Setting:
    head_dims = {
        kernel.head_dim for kernel in _native.kernels() if kernel.op == "fwd" and kernel.dtype == "bf16"
    }
    return Setting("bf16", 128 if 128 in head_dims else min(head_dims), True, 4096)


def _speed_line(raced: Race) -> str:
    speeds = ", ".join(f"{timing.provider} {timing.tflops:.0f}" for timing in raced.timings)
    ratios = ((raced.ratio_to_cudnn, "cuDNN"), (raced.ratio_to_flash, "torch's flash"))
    compared = ", ".join(f"{ratio:.2f} x {name}" for ratio, name in ratios if ratio is not None)
    failures = "".join(f"\nFAILED race {raced.setting.name}: {failure}" for failure in raced.failures)
    return (
        f"speed {raced.setting.name}, TFLOP/s: {speeds}" + (f" ({compared})" if compared else "") + failures
    )
