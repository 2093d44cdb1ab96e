"""Checks of calls with few query rows over many keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from flash_attn3 import flash_attn_with_kvcache
from flash_attn3.checks.behaviour import decoding
from flash_attn3.checks.behaviour.forward_memory import place_out
from flash_attn3.checks.cases.case import CATEGORIES, AttentionCase
from flash_attn3.checks.cases.decode import decode_cases
from flash_attn3.checks.data.call import call, public_forward
from flash_attn3.checks.data.forward_abi import decode_kernel
from flash_attn3.checks.data.inputs import AttentionInputs, make_inputs
from flash_attn3.checks.ops.opcheck import OpCheck, Selection, Selftest
from flash_attn3.checks.speed.host_time import HostCall
from flash_attn3.checks.speed.providers import OURS
from flash_attn3.checks.truth.forward import ForwardTruth, find_truth, judge_case

if TYPE_CHECKING:
    from flash_attn3.checks.behaviour.canary import OutBuffer, Results


def _cases(selection: Selection) -> tuple[AttentionCase, ...]:
    return decode_cases(selection.quick, selection.samples, selection.seed)


def _out_buffer(case: AttentionCase, result: Results) -> OutBuffer:
    layout = ("contiguous", "bhsd", "padded")[case.seqlen_k % 3]
    return place_out(tuple(result[0].shape), layout, result[0].device)


def _host_calls(device: torch.device) -> dict[str, HostCall]:
    q = torch.zeros(4, 1, 8, 128, dtype=torch.bfloat16, device=device)
    cache = torch.zeros(4, 1024, 2, 128, dtype=torch.bfloat16, device=device)
    lengths = torch.full((4,), 1000, dtype=torch.int32, device=device)
    return {
        f"{OURS} decode": HostCall(lambda: flash_attn_with_kvcache(q, cache, cache, cache_seqlens=lengths))
    }


CHECK: OpCheck[AttentionCase, AttentionInputs, ForwardTruth] = OpCheck(
    op="decode",
    section="decode",
    categories=CATEGORIES,
    function=public_forward,
    cases=_cases,
    on_ptx=lambda case: case.seed < 1_000_000,  # those that are not drawn
    inputs=make_inputs,
    call=call,
    truth=find_truth,
    judge=judge_case,
    kernel=decode_kernel,
    out_buffer=_out_buffer,
    selftest=Selftest(cases=lambda: decode_cases(quick=True)[::4]),
    behaviours={
        "decode_beside_other_sequences": decoding.other_sequences,
        "decode_replay_at_other_lengths": decoding.replay_at_other_lengths,
        "decode_many_launches": decoding.many_launches,
    },
    host_calls=_host_calls,
)
