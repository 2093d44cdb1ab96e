"""``python -m flash_attn3.checks``, on this machine's CPU with kernels of plain PyTorch."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from flash_attn3 import _native
from flash_attn3._native import Code, Kernel
from flash_attn3.checks import __main__ as command
from flash_attn3.checks.cases.case import Case
from flash_attn3.checks.kinds import Kind
from flash_attn3.checks.ops.combine import combine_cases
from flash_attn3.checks.speed.race_settings import portable_settings
from tests.flash_attn3.test_combine import PlainCombine
from tests.flash_attn3.tiled_attention import TiledAttention

CPU = torch.device("cpu")
NARROW = Case("bf16", True, 1, 5, 9, 2, 1, head_dim=16)
WIDE = Case("bf16", False, 1, 5, 9, 2, 1, head_dim=16, head_dim_v=80)
WIDEST = Case("bf16", False, 1, 5, 9, 2, 1, head_dim=16, head_dim_v=513)


def _kernel(code, head_dim_v, op="fwd"):
    return Kernel(f"{op}_{code}", op, "any", "12.8", 90, "bf16", 64, head_dim_v, code)


EXACT = (_kernel("exact", 64), replace(_kernel("exact", 64), min_seqlen_q=2048))
KINDS = (
    Kind(Code.EXACT, EXACT),
    Kind(Code.EXACT, EXACT, as_long=True),
    Kind(Code.PORTABLE, (_kernel("portable", 512), _kernel("portable", 0, "combine"))),
    Kind(Code.PTX, (_kernel("ptx", 512),)),
)


@pytest.fixture
def allowed(monkeypatch):
    """The codes that were allowed when each call was made, and whether long sequences' kernels served it."""
    every = (tuple(Code), False)
    now, calls = [every], []

    def forward(*arguments, **options):
        calls.append(now[-1])
        return TiledAttention()(*arguments, **options)

    def combine(*arguments, **options):
        calls.append(now[-1])
        return PlainCombine()(*arguments, **options)

    def allow(codes=every[0], seqlen_q=0):
        now.append((tuple(codes), seqlen_q > WIDEST.seqlen_q))

    monkeypatch.setattr(_native, "allow_kernels", allow)
    monkeypatch.setattr(command, "kinds_on", lambda _device: KINDS)
    monkeypatch.setattr(command, "public_forward", forward)
    monkeypatch.setattr(command, "flash_attn_combine", combine)
    monkeypatch.setattr(command, "combine_cases", lambda quick: combine_cases(quick)[:5])
    monkeypatch.setattr(command, "quick_cases", lambda: (NARROW,))
    monkeypatch.setattr(command, "full_cases", lambda _samples, _seed: (NARROW, WIDE, WIDEST))
    return calls


def _events(capsys, section, **arguments):
    options = argparse.Namespace(**{"quick": False, "samples": 3, "seed": 1, **arguments})
    command.SECTIONS[section](options, CPU)
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    starts = [event["name"] for event in events if event["event"] == "start"]
    outcomes = [event["outcome"] for event in events if event["event"] == "outcome"]
    assert starts == [outcome["name"] for outcome in outcomes]
    assert all(outcome["passed"] for outcome in outcomes)
    return outcomes


def test_each_case_is_run_by_every_kind_that_takes_it(capsys, allowed):
    outcomes = _events(capsys, "correctness")
    assert [(outcome["name"], outcome["params"].get("kernels")) for outcome in outcomes] == [
        (f"{NARROW.name}@exact", "exact"),
        (f"{NARROW.name}@exact_long", "exact"),
        (f"{NARROW.name}@portable", "portable"),
        (f"{NARROW.name}@ptx", "ptx"),
        (f"{WIDE.name}@portable", "portable"),  # no quick case, so the driver need not compile PTX for it
        (WIDEST.name, None),  # a call that no kernel takes is made, and would say so
    ]
    exact, portable, ptx = (((code,), False) for code in Code)
    assert allowed == [exact, ((Code.EXACT,), True), portable, ptx, portable, (tuple(Code), False)]


def test_quick_cases_are_run_alone(capsys, allowed):
    assert len(_events(capsys, "correctness", quick=True)) == len(allowed) == 4


def test_only_kinds_that_combine_are_asked_to(capsys, allowed):
    outcomes = _events(capsys, "combine", quick=True)
    assert [outcome["name"] for outcome in outcomes] == [
        f"{case.name}@portable" for case in combine_cases(quick=True)[:5]
    ]
    assert set(allowed) == {((Code.PORTABLE,), False)}


def test_portable_kernels_are_raced_alone_and_once(capsys, allowed, monkeypatch):
    """Those for long sequences serve where they are meant to, and nowhere else."""
    raced = []

    def race(setting, **options):
        command.public_forward(*torch.zeros(3, 1, 1, 1, 16, dtype=torch.bfloat16), None, False)
        raced.append((setting.name, options.get("kernels", "")))
        return SimpleNamespace(as_dict=dict)

    portable = replace(KINDS[2], as_long=True)
    monkeypatch.setattr(command, "kinds_on", lambda _device: (*KINDS, portable))
    monkeypatch.setattr(command, "race", race)
    settings = portable_settings()[:1]
    monkeypatch.setattr(command, "settings", lambda _quick, _head_dims: settings)
    monkeypatch.setattr(command, "portable_settings", lambda: settings)
    arguments = argparse.Namespace(quick=True, peer=[], race=[], race_runs=1)
    command.SECTIONS["race"](arguments, CPU)
    assert capsys.readouterr().out.count('"event": "race"') == 2
    assert raced == [(settings[0].name, ""), (settings[0].name, "portable")]
    assert allowed == [(tuple(Code), False), ((Code.PORTABLE,), False)]


@pytest.mark.parametrize(
    ("patterns", "chosen"),
    [([], True), (["bf16_d64_*"], True), (["*@portable"], False), (["x", "*_s1024"], True), (["D64"], False)],
)
def test_races_are_chosen_by_name(patterns, chosen):
    assert command._is_chosen("bf16_d64_full_s1024", patterns) is chosen
