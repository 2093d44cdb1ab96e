"""Checks of attention backward, as users reach it: through autograd."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from flash_attn3._native import Code
from flash_attn3.checks.behaviour.interface import second_derivative_refused
from flash_attn3.checks.cases.backward import (
    CATEGORIES,
    BackwardCase,
    backward_cases_per_kernel,
    full_backward_cases,
    quick_backward_cases,
)
from flash_attn3.checks.data.backward_abi import kernel_of_backward
from flash_attn3.checks.data.call import public_forward
from flash_attn3.checks.data.gradients import BackwardInputs, call_backward, make_backward_inputs
from flash_attn3.checks.ops.opcheck import OpCheck, Selection, Selftest
from flash_attn3.checks.speed import race_backward
from flash_attn3.checks.speed.host_calls import backward_calls
from flash_attn3.checks.speed.providers import CUDNN, FLASH
from flash_attn3.checks.speed.race import Races
from flash_attn3.checks.speed.race_settings import (
    BackwardSetting,
    backward_settings,
    head_dims,
    portable_backward_settings,
)
from flash_attn3.checks.truth.backward import BackwardTruth, find_backward_truth, judge_backward

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flash_attn3._native import Kernel
    from flash_attn3.checks.speed.race_backward import BackwardRaceInputs, Results


def _cases(selection: Selection) -> Sequence[BackwardCase]:
    if selection.quick:
        return quick_backward_cases()
    return full_backward_cases(selection.samples, selection.seed)


@cache
def _names_on_ptx() -> frozenset[str]:
    return frozenset(case.name for case in (*quick_backward_cases(), *backward_cases_per_kernel()))


def _race_settings(quick: bool, kernels: Sequence[Kernel]) -> tuple[BackwardSetting, ...]:
    return backward_settings(quick, head_dims(kernels))


_RACES: Races[BackwardSetting, BackwardRaceInputs, Results] = Races(
    settings=_race_settings,
    inputs=race_backward.random_inputs,
    ours=race_backward.call_ours,
    others={CUDNN: race_backward.call_cudnn, FLASH: race_backward.call_flash},
    new_out=race_backward.new_gradients,
    judge=race_backward.judge_head,
    restricted={Code.PORTABLE: portable_backward_settings},
    rounds=7,
    judged=False,  # recorded; no bar yet
)

CHECK: OpCheck[BackwardCase, BackwardInputs, BackwardTruth] = OpCheck(
    op="bwd",
    section="gradients",
    categories=CATEGORIES,
    function=public_forward,
    cases=_cases,
    on_ptx=lambda case: case.name in _names_on_ptx(),
    inputs=make_backward_inputs,
    call=call_backward,
    truth=find_backward_truth,
    judge=judge_backward,
    kernel=kernel_of_backward,
    selftest=Selftest(cases=quick_backward_cases),
    races=_RACES,
    mixed_behaviours={"second_derivative_refused": second_derivative_refused},
    host_calls=backward_calls,
)
