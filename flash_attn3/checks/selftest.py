"""``python -m flash_attn3 selftest``: a quick check of correctness and speed on one GPU."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import torch

from flash_attn3._installation import inspect_installation
from flash_attn3.checks.behaviour.behaviour import run_behaviour
from flash_attn3.checks.kinds import kernels_on
from flash_attn3.checks.ops import op_checks
from flash_attn3.checks.speed.providers import CUDNN, FLASH
from flash_attn3.checks.speed.race import race
from flash_attn3.checks.trial import run_case

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from flash_attn3.checks.ops.opcheck import OpCheck
    from flash_attn3.checks.outcome import Outcome
    from flash_attn3.checks.speed.race import Race

PASSED, FAILED, CANNOT_JUDGE = 0, 1, 2


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
        for check in op_checks():
            for outcome in _outcomes(check, device):
                checks += 1
                failed += not outcome.passed
                for failure in outcome.failures:
                    print(f"FAILED {outcome.section} {outcome.name}: {failure}")
            raced = _race(check, device)
            if raced is not None:
                checks += 1
                failed += bool(raced.failures)
                print(_speed_line(raced))
    result = f"{failed} of {checks} checks failed" if failed else f"{checks} checks passed"
    print(f"selftest: {result} in {time.monotonic() - start:.0f} s")
    return FAILED if failed else PASSED


def _outcomes(check: OpCheck[Any, Any, Any], device: torch.device) -> Iterator[Outcome]:
    """Yield the outcomes of one operator's selftest; none if this GPU has no kernel of it."""
    if not kernels_on(device, check.op):
        return
    for case in check.selftest.cases():
        yield run_case(check, case, device)
    for memory in check.selftest.memory():
        yield memory.run(check.function, device)
    for name in check.selftest.behaviours:
        yield run_behaviour(name, check.behaviours[name], check.function, device)


def _race(check: OpCheck[Any, Any, Any], device: torch.device) -> Race | None:
    kernels, setting = kernels_on(device, check.op), check.selftest.setting
    if check.races is None or setting is None or not kernels:
        return None
    return race(check.races, setting(kernels), device, rounds=11)


def _speed_line(raced: Race) -> str:
    speeds = ", ".join(f"{timing.provider} {timing.tflops:.0f}" for timing in raced.timings)
    shown = ((CUDNN, "cuDNN"), (FLASH, "torch's flash"))
    ratios = ", ".join(
        f"{raced.ratios[other]:.2f} x {name}" for other, name in shown if other in raced.ratios
    )
    failures = "".join(f"\nFAILED race {raced.setting.name}: {failure}" for failure in raced.failures)
    return f"speed {raced.setting.name}, TFLOP/s: {speeds}" + (f" ({ratios})" if ratios else "") + failures
