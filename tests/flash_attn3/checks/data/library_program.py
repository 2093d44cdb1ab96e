"""Asks the real library which kernels serve cases, beside the fake driver; prints `question answer` lines."""

from __future__ import annotations

import torch

from flash_attn3._native import Code
from flash_attn3.checks.cases.case import AttentionCase
from flash_attn3.checks.kinds import Kind
from flash_attn3.checks.ops import op_check, op_checks
from flash_attn3.checks.ops.combine import CombineCase
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
    FakeDriver().setup()
    kinds = [Kind(code, as_long) for code in Code for as_long in (False, True)]
    for name, case in CASES.items():
        answer(name, kinds, Trial(op_check("fwd"), case, CPU))
    answer("join", kinds, Trial(op_check("combine"), CombineCase("fp16", 3, 2, 7, 2, 33), CPU))
    asked = unserved = 0
    for check in op_checks():
        for case in check.cases(Selection(quick=True)):
            kernel = Trial(check, case, CPU).kernel
            found = [kind.find_kernel(kernel) for kind in kinds[:4]]
            asked += 1
            unserved += not any(name is not None for name in found)
    print(f"cases {asked}\nunserved {unserved}")


if __name__ == "__main__":
    main()
