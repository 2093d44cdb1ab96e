"""Checks of ``flash_attn_append_kvcache``, and of ``flash_attn_with_kvcache`` where it appends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from flash_attn3 import flash_attn_append_kvcache
from flash_attn3.checks.behaviour import appending
from flash_attn3.checks.cases.append import CATEGORIES, AppendCase, append_cases
from flash_attn3.checks.data.append import AppendInputs, call, make_inputs, public_kvcache
from flash_attn3.checks.data.append_abi import append_kernel
from flash_attn3.checks.ops.opcheck import OpCheck, Selection, Selftest
from flash_attn3.checks.speed.host_time import HostCall
from flash_attn3.checks.speed.providers import OURS
from flash_attn3.checks.truth.append import AppendTruth, find_truth, judge_case

if TYPE_CHECKING:
    from collections.abc import Sequence


def _cases(selection: Selection) -> Sequence[AppendCase]:
    return append_cases(selection.quick, selection.samples, selection.seed)


def _host_calls(device: torch.device) -> dict[str, HostCall]:
    cache, new = (torch.zeros(4, rows, 2, 128, dtype=torch.bfloat16, device=device) for rows in (256, 1))
    lengths = torch.zeros(4, dtype=torch.int32, device=device)
    return {f"{OURS} append": HostCall(lambda: flash_attn_append_kvcache(cache, cache, new, new, lengths))}


CHECK: OpCheck[AppendCase, AppendInputs, AppendTruth] = OpCheck(
    op="append",
    section="append",
    categories=CATEGORIES,
    function=public_kvcache,
    cases=_cases,
    on_ptx=lambda case: case.seed == 0,
    inputs=make_inputs,
    call=call,
    truth=find_truth,
    judge=judge_case,
    kernel=append_kernel,
    selftest=Selftest(cases=lambda: append_cases(quick=True)[::4]),
    behaviours={
        "append_repeats_equal": appending.repeats_equal,
        "append_replay_with_grown_lengths": appending.replay_with_grown_lengths,
    },
    mixed_behaviours={"append_attends_with_every_kernel": appending.attends_with_every_kernel},
    host_calls=_host_calls,
)
