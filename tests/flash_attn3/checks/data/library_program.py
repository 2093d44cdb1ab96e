"""Asks the real library which kernels serve cases, beside the fake driver; prints `question answer` lines."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import torch

from flash_attn3 import _native
from flash_attn3._native import Code
from flash_attn3.checks.cases.append import fixed_cases
from flash_attn3.checks.cases.backward import BackwardCase, backward_cases_per_kernel
from flash_attn3.checks.cases.case import DTYPES, AttentionCase
from flash_attn3.checks.cases.decode import fixed_decode_cases
from flash_attn3.checks.cases.per_kernel import per_kernel
from flash_attn3.checks.kinds import BESIDE, Kind
from flash_attn3.checks.ops import op_check, op_checks
from flash_attn3.checks.ops.combine import CombineCase, combine_cases
from flash_attn3.checks.ops.opcheck import Selection
from flash_attn3.checks.trial import Trial
from tests.kernels.host.fake_driver import FakeDriver

CPU = torch.device("cpu")
PLAIN = AttentionCase("bf16", True, 2, 100, 100, 4, 2, head_dim=64)
FULL = AttentionCase("bf16", False, 2, 100, 100, 4, 2, head_dim=64)
CASES = {
    "plain": PLAIN,
    "packed": AttentionCase("bf16", True, 3, 100, 100, 4, 2, head_dim=64, form="packed", seed=1),
    "paged": AttentionCase("bf16", True, 3, 100, 100, 4, 2, head_dim=64, form="paged", page_size=7, seed=1),
    "long": AttentionCase("bf16", True, 1, 16384, 64, 1, 1, head_dim=64),
    "far_window": AttentionCase("bf16", False, 2, 100, 100, 4, 2, head_dim=64, window=(99, 99)),
    "window": AttentionCase("bf16", False, 2, 100, 100, 4, 2, head_dim=64, window=(98, 99)),
    "softcap": AttentionCase("bf16", False, 2, 100, 100, 4, 2, head_dim=64, softcap=20.0),
    "misaligned": AttentionCase("fp16", False, 2, 100, 100, 4, 2, head_dim=80, layout="misaligned"),
    "wide": AttentionCase("bf16", False, 2, 100, 100, 4, 2, head_dim=64, head_dim_v=512),
    "wider": AttentionCase("bf16", False, 2, 100, 100, 4, 2, head_dim=64, head_dim_v=513),
}


def answer(name, kinds, trial) -> None:
    for kind in kinds:
        print(f"{name}@{kind.name} {kind.find_kernel(trial.kernel)}")


def main() -> None:
    torch.set_num_threads(1)
    FakeDriver().setup()
    kinds = [Kind(code, as_long) for code in Code for as_long in (False, True)]
    for name, case in CASES.items():
        answer(name, kinds, Trial(op_check("fwd"), case, CPU))
    answer("join", kinds, Trial(op_check("combine"), CombineCase("fp16", 3, 2, 7, 2, 33), CPU))
    asked = unserved = 0
    for check in op_checks():
        for case in check.cases(Selection(quick=True)):
            kernel = Trial(check, undrawn(case), CPU).kernel
            found = [kind.find_kernel(kernel) for kind in kinds[:4]]
            asked += 1
            unserved += not any(name is not None for name in found)
    print(f"cases {asked}\nunserved {unserved}")
    for kernel, fewest in fewest_cases(kinds).items():
        print(f"fewest@{kernel} {fewest}")


def undrawn(case):
    """Return a case that the same kernel serves, with less to draw: values and many keys choose none."""
    if isinstance(case, BackwardCase):
        return replace(case, attention=replace(case.attention, values="normal"))
    if not isinstance(case, AttentionCase):
        return case
    return replace(case, values="normal", batch=min(case.batch, 3), seqlen_k=min(case.seqlen_k, 600))


def fewest_cases(kinds) -> dict[str, int]:
    """Return, for each kernel that this device runs, the smallest number of fixed cases of a category.

    Of attention the cases for each kernel alone: the others only add to them.
    """
    fixed = {
        "fwd": tuple(per_kernel(DTYPES)),
        "bwd": backward_cases_per_kernel(),
        "combine": combine_cases(quick=False),
        "append": fixed_cases(),
        "decode": fixed_decode_cases(),
    }
    found = Counter()
    for check in op_checks():
        for case in fixed[check.op]:
            assert check.on_ptx(case)
            kernel = Trial(check, undrawn(case), CPU).kernel
            for kind in kinds:
                names = (kind.find_kernel(kernel) or "").split(BESIDE)
                found.update((name, case.category) for name in names)
    return {
        kernel.name: min(found[kernel.name, category] for category in op_check(kernel.op).categories)
        for kernel in _native.kernels()
        if kernel.runs_on(90)
    }


if __name__ == "__main__":
    main()
