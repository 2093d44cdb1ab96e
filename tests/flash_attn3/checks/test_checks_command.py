"""``python -m flash_attn3.checks``, on this machine's CPU with kernels of plain PyTorch."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from flash_attn3._native import Code
from flash_attn3.checks import __main__ as command
from flash_attn3.checks.behaviour.canary import MemoryCheck
from flash_attn3.checks.cases.case import AttentionCase
from flash_attn3.checks.ops import combine, fwd, op_checks
from flash_attn3.checks.ops.combine import combine_cases
from flash_attn3.checks.outcome import Outcome
from flash_attn3.checks.speed.race_settings import portable_settings
from tests.flash_attn3.checks.library_double import EVERY, Entry, LibraryDouble
from tests.flash_attn3.plain_combine import PlainCombine
from tests.flash_attn3.tiled_attention import TiledAttention

CPU = torch.device("cpu")
NARROW = AttentionCase("bf16", True, 1, 5, 9, 2, 1, head_dim=16)
WIDE = AttentionCase("bf16", False, 1, 5, 9, 2, 1, head_dim=16, head_dim_v=80)
WIDEST = AttentionCase("bf16", False, 1, 5, 9, 2, 1, head_dim=16, head_dim_v=513)
ENTRIES = (
    Entry("exact"),
    Entry("exact_from2048", min_seqlen_q=2048),
    Entry("portable", code="portable", head_dim_v=512),
    Entry("portable_combine", code="portable", op="combine", head_dim=0, head_dim_v=0),
    Entry("ptx", code="ptx", head_dim_v=512),
)


@pytest.fixture
def allowed(monkeypatch):
    """The codes that were allowed when each call was made, and whether long sequences' kernels served it."""
    library, calls = LibraryDouble(ENTRIES), []

    def forward(*arguments, **options):
        calls.append((library.allowed[0], library.allowed[1] > WIDEST.seqlen_q))
        return TiledAttention()(*arguments, **options)

    def join(*arguments, **options):
        calls.append((library.allowed[0], library.allowed[1] > WIDEST.seqlen_q))
        return PlainCombine()(*arguments, **options)

    def cases(selection):
        return (NARROW,) if selection.quick else (NARROW, WIDE, WIDEST)

    def behaves(function, _device):
        function(*torch.zeros(3, 1, 1, 1, 16, dtype=torch.bfloat16), None, False)
        yield from ()

    def writes(function, _device):
        function(*torch.zeros(3, 1, 1, 1, 16, dtype=torch.bfloat16), None, False)
        return Outcome("memory", "writes")

    checks = (
        replace(
            combine.CHECK,
            function=join,
            cases=lambda selection: combine_cases(selection.quick)[:5],
        ),
        replace(
            fwd.CHECK,
            function=forward,
            cases=cases,
            on_ptx=lambda case: case == NARROW,
            memory=lambda: [MemoryCheck("writes", WIDE, writes)],
            behaviours={"behaves": behaves},
            mixed_behaviours={"mixes": behaves},
        ),
    )
    library.install(monkeypatch)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: (9, 0))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _device: None)
    monkeypatch.setattr(command, "op_checks", lambda: checks)
    yield calls
    assert library.allowed == EVERY


def _events(capsys, section, **arguments):
    options = argparse.Namespace(**{"quick": False, "samples": 3, "seed": 1, **arguments})
    command.sections()[section](options, CPU)
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    starts = [event["name"] for event in events if event["event"] == "start"]
    outcomes = [event["outcome"] for event in events if event["event"] == "outcome"]
    assert starts == [outcome["name"] for outcome in outcomes]
    assert all(outcome["passed"] for outcome in outcomes)
    return outcomes


def test_each_case_is_run_by_every_kind_that_takes_it(capsys, allowed):
    outcomes = _events(capsys, "correctness")
    found = [
        (outcome["name"], outcome["params"].get("kernels"), outcome["params"].get("kernel"))
        for outcome in outcomes
    ]
    assert found == [
        (f"{NARROW.name}@exact", "exact", "exact"),
        (f"{NARROW.name}@exact_long", "exact", "exact_from2048"),
        (f"{NARROW.name}@portable", "portable", "portable"),
        (f"{NARROW.name}@ptx", "ptx", "ptx"),
        (f"{WIDE.name}@portable", "portable", "portable"),  # not for PTX, so the driver need not compile it
        (WIDEST.name, None, None),  # a call that no kernel takes is made, and would say so
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
    assert {outcome["params"]["kernel"] for outcome in outcomes} == {"portable_combine"}
    assert set(allowed) == {((Code.PORTABLE,), False)}


def test_memory_checks_are_run_by_every_compiled_kind_that_takes_their_case(capsys, allowed):
    (outcome,) = _events(capsys, "memory")
    assert (outcome["name"], outcome["params"]["kernel"]) == ("writes@portable", "portable")
    assert allowed == [((Code.PORTABLE,), False)]


def test_behaviours_are_run_by_every_compiled_kind_and_mixed_ones_by_all_kernels(capsys, allowed):
    """There are no portable kernels for long sequences, so they are no kind of their own."""
    outcomes = _events(capsys, "behaviour")
    assert [outcome["name"] for outcome in outcomes] == [
        *("behaves@exact", "behaves@exact_long", "behaves@portable", "mixes"),
    ]
    exact, portable = (((code,), False) for code in (Code.EXACT, Code.PORTABLE))
    assert allowed == [exact, ((Code.EXACT,), True), portable, (tuple(Code), False)]


def test_a_case_without_inputs_fails_and_the_next_one_runs(capsys, allowed, monkeypatch):
    def inputs(case, device):
        if case == NARROW:
            raise MemoryError("no room for q")
        return fwd.CHECK.inputs(case, device)

    checks = tuple(
        replace(check, inputs=inputs) if check.op == "fwd" else check for check in command.op_checks()
    )
    monkeypatch.setattr(command, "op_checks", lambda: checks)
    options = argparse.Namespace(quick=False, samples=3, seed=1)
    command.sections()["correctness"](options, CPU)
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    outcomes = [event["outcome"] for event in events if event["event"] == "outcome"]
    assert [(outcome["name"], outcome["failures"]) for outcome in outcomes] == [
        (NARROW.name, ["raised MemoryError: no room for q"]),
        (f"{WIDE.name}@portable", []),
        (WIDEST.name, []),
    ]
    assert len(allowed) == 2


def test_an_operator_without_a_kernel_for_the_gpu_is_not_checked(capsys, allowed, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: (7, 5))
    for section in ("correctness", "combine", "memory", "behaviour", "fresh"):
        assert _events(capsys, section) == []
    assert allowed == []


def test_portable_kernels_are_raced_alone_and_once(capsys, allowed, monkeypatch):
    """Those for long sequences serve where they are meant to, and nowhere else."""
    raced = []

    def race(races, setting, **options):
        (check,) = (check for check in command.op_checks() if check.races is races)
        check.function(*torch.zeros(3, 1, 1, 1, 16, dtype=torch.bfloat16), None, False)
        raced.append((setting.name, options.get("kernels", "")))
        return SimpleNamespace(as_dict=dict)

    settings = portable_settings()[:1]
    offered = []

    def choose(quick, kernels):
        offered.append((quick, {kernel.code for kernel in kernels}))
        of_the_preferred = fwd.CHECK.races.settings(quick, kernels)
        assert {(setting.head_dim, setting.head_dim_v) for setting in of_the_preferred} == {(64, None)}
        return settings

    races = replace(fwd.CHECK.races, settings=choose, restricted={Code.PORTABLE: lambda: settings})
    checks = tuple(
        replace(check, races=races) if check.op == "fwd" else check for check in command.op_checks()
    )
    monkeypatch.setattr(command, "op_checks", lambda: checks)
    monkeypatch.setattr(command, "race", race)
    arguments = argparse.Namespace(quick=True, peer=[], race=[], race_runs=1)
    command.sections()["race"](arguments, CPU)
    assert capsys.readouterr().out.count('"event": "race"') == 2
    assert offered == [(True, {"exact", "portable", "ptx"})]
    assert raced == [(settings[0].name, ""), (settings[0].name, "portable")]
    assert allowed == [(tuple(Code), False), ((Code.PORTABLE,), False)]


@pytest.mark.parametrize(
    ("patterns", "chosen"),
    [([], True), (["bf16_d64_*"], True), (["*@portable"], False), (["x", "*_s1024"], True), (["D64"], False)],
)
def test_races_are_chosen_by_name(patterns, chosen):
    assert command._is_chosen("bf16_d64_full_s1024", patterns) is chosen


def test_the_environment_lists_the_sections(capsys):
    assert command.main(["environment"]) == 0
    environment, end = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert end == {"event": "end"}
    assert environment["environment"]["package_version"] == "0.1.0"
    listed = environment["sections"]
    assert set(listed) == {check.section for check in op_checks()} | {
        *("memory", "behaviour", "fresh", "race", "host_time"),
    }
    assert {"correctness", "combine"} < set(listed)
    assert len(listed) == len(set(listed))
    assert environment["operators"] == {
        check.section: {"op": check.op, "categories": [*check.categories]} for check in op_checks()
    }
    assert environment["operators"]["correctness"]["op"] == "fwd"


@pytest.mark.parametrize("section", ["correctness", "combine", "race"])
def test_without_a_gpu_a_section_ends_with_2(capsys, monkeypatch, section):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert command.main([section]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "no GPU: torch.cuda.is_available() is False\n"
