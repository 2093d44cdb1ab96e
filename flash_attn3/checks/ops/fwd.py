"""Checks of attention forward, dense, packed and paged."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from flash_attn3._native import Code
from flash_attn3.checks.behaviour import execution, first_use, interface, invariance
from flash_attn3.checks.behaviour.forward_memory import abi_checks, out_checks
from flash_attn3.checks.cases.case import CATEGORIES, DTYPES
from flash_attn3.checks.cases.catalogue import full_cases, quick_cases
from flash_attn3.checks.cases.per_kernel import per_kernel
from flash_attn3.checks.data.call import call, public_forward
from flash_attn3.checks.data.forward_abi import forward_kernel
from flash_attn3.checks.data.inputs import AttentionInputs, make_inputs
from flash_attn3.checks.kinds import kinds_of
from flash_attn3.checks.ops.opcheck import OpCheck, Selection, Selftest
from flash_attn3.checks.speed import race_attention
from flash_attn3.checks.speed.host_calls import forward_calls
from flash_attn3.checks.speed.providers import CUDNN, FA3, FLASH
from flash_attn3.checks.speed.race import Races
from flash_attn3.checks.speed.race_peer import call_fa3
from flash_attn3.checks.speed.race_settings import (
    AttentionSetting,
    head_dims,
    portable_settings,
    settings,
)
from flash_attn3.checks.truth.forward import ForwardTruth, find_truth, judge_case

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from flash_attn3._native import Kernel
    from flash_attn3.checks.cases.case import AttentionCase
    from flash_attn3.checks.speed.race_attention import RaceInputs


def _cases(selection: Selection) -> tuple[AttentionCase, ...]:
    return quick_cases() if selection.quick else full_cases(selection.samples, selection.seed)


@cache
def _names_on_ptx() -> frozenset[str]:
    return frozenset(case.name for case in (*quick_cases(), *per_kernel(DTYPES)))


def _race_settings(quick: bool, kernels: Sequence[Kernel]) -> tuple[AttentionSetting, ...]:
    preferred = kinds_of(tuple(kernels))[0].name
    return settings(quick, head_dims([kernel for kernel in kernels if kernel.code == preferred]))


def _selftest_setting(kernels: Sequence[Kernel]) -> AttentionSetting:
    found = {kernel.head_dim for kernel in kernels}
    return AttentionSetting("bf16", 128 if 128 in found else min(found), True, 4096)


_RACES: Races[AttentionSetting, RaceInputs, Tensor] = Races(
    settings=_race_settings,
    inputs=race_attention.random_inputs,
    ours=race_attention.call_ours,
    others={CUDNN: race_attention.call_cudnn, FLASH: race_attention.call_flash},
    peers={FA3: call_fa3},
    new_out=race_attention.new_out,
    judge=race_attention.judge_rows,
    restricted={Code.PORTABLE: portable_settings},
)

CHECK: OpCheck[AttentionCase, AttentionInputs, ForwardTruth] = OpCheck(
    op="fwd",
    section="correctness",
    categories=CATEGORIES,
    function=public_forward,
    cases=_cases,
    on_ptx=lambda case: case.name in _names_on_ptx(),
    inputs=make_inputs,
    call=call,
    truth=find_truth,
    judge=judge_case,
    kernel=forward_kernel,
    selftest=Selftest(
        cases=quick_cases,
        memory=lambda: abi_checks()[::3],
        behaviours=("repeats_equal", "many_streams", "graph_replay", "errors_then_success"),
        setting=_selftest_setting,
    ),
    memory=lambda: (*abi_checks(), *out_checks()),
    behaviours={
        "repeats_equal": execution.repeats_equal,
        "repeats_equal_beside_work": execution.repeats_equal_beside_work,
        "many_streams": execution.many_streams,
        "stream_order": execution.stream_order,
        "graph_replay": execution.graph_replay,
        "many_threads": execution.many_threads,
        "every_device": execution.every_device,
        "one_tensor": interface.one_tensor,
        "sm_margin": interface.sm_margin,
        "caches_in_place": interface.caches_in_place,
        "errors_then_success": interface.errors_then_success,
        "out_refused": interface.out_refused,
        "varying_batches": invariance.varying_batches,
        "varying_batches_of_outrunning_rows": invariance.varying_batches_of_outrunning_rows,
        "rows_beside_outrunning_ones": invariance.rows_beside_outrunning_ones,
        "no_leak": execution.no_leak,
    },
    mixed_behaviours={"varying_batches_of_wide_values": invariance.varying_batches_of_wide_values},
    fresh={
        "under_capture": first_use.under_capture,
        "in_threads": first_use.in_threads,
        "after_fork": first_use.after_fork,
        "on_last_device": first_use.on_last_device,
    },
    races=_RACES,
    host_calls=forward_calls,
)
