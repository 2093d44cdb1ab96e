"""``python -m flash_attn3.checks SECTION`` runs one section and prints each result as a line of JSON.

The farm's ``validate`` runs every section in a process of its own, so that a crash loses one section and no
more. Each line is an object with the key ``event``: ``environment``, ``start`` (before a check, so that a
crash can be laid at its door), ``outcome``, ``race``, ``host_time`` or ``end``.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from flash_attn3 import flash_attn_combine
from flash_attn3._native import Code
from flash_attn3.checks.behaviour.canary import memory_cases, out_cases, run_memory_case, run_out_case
from flash_attn3.checks.behaviour.fresh_process import FRESH, run_fresh
from flash_attn3.checks.behaviour.promises import BEHAVIOURS, MIXED_BEHAVIOURS, run_behaviour
from flash_attn3.checks.cases.catalogue import full_cases, quick_cases
from flash_attn3.checks.environment import describe_environment
from flash_attn3.checks.kinds import Kind, kinds_on
from flash_attn3.checks.ops.combine import combine_cases, run_combine_case
from flash_attn3.checks.ops.fwd import Trial, public_forward
from flash_attn3.checks.speed.host_time import host_times
from flash_attn3.checks.speed.race import Race, race, race_name
from flash_attn3.checks.speed.race_peer import load_peer
from flash_attn3.checks.speed.race_settings import portable_settings, settings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flash_attn3.checks.outcome import Outcome


def _emit(event: str, **fields: Any) -> None:
    print(json.dumps({"event": event, **fields}), flush=True)


def _check(section: str, name: str, run: Callable[[], Outcome], kind: Kind | None = None) -> None:
    """Run one check; of ``kind`` alone when one is given, which then is part of its name."""
    _emit("start", section=section, name=kind.label(name) if kind else name)
    outcome = run()
    _emit("outcome", outcome=(kind.mark(outcome) if kind else outcome).as_dict())


def _environment(_arguments: argparse.Namespace, device: torch.device | None) -> None:
    operators = {"correctness": "fwd", "combine": "combine"}
    environment = describe_environment(device)
    _emit("environment", environment=environment, sections=list(SECTIONS), operators=operators)


def _correctness(arguments: argparse.Namespace, device: torch.device) -> None:
    quick = {case.name for case in quick_cases()}
    cases = quick_cases() if arguments.quick else full_cases(arguments.samples, arguments.seed)
    kinds = kinds_on(device)
    for case in cases:
        trial = Trial(case, device)
        tried = [
            kind for kind in kinds if kind.covers(case) and (kind.code != Code.PTX or case.name in quick)
        ]
        for kind in tried:
            with kind.alone():
                _check("correctness", case.name, partial(trial.run, public_forward), kind)
        if not tried:  # the call says why
            _check("correctness", case.name, partial(trial.run, public_forward))


def _memory(_arguments: argparse.Namespace, device: torch.device) -> None:
    for kind in _compiled_kinds(device):
        with kind.alone():
            for case, layout in memory_cases():
                if kind.covers(case):
                    run = partial(run_memory_case, case, layout, public_forward, device)
                    _check("memory", f"{case.name}-out_{layout}", run, kind)
            for case, layout in out_cases():
                if kind.covers(case):
                    run = partial(run_out_case, case, layout, public_forward, device)
                    _check("memory", f"{case.name}-into_{layout}", run, kind)


def _behaviour(_arguments: argparse.Namespace, device: torch.device) -> None:
    for kind in _compiled_kinds(device):
        with kind.alone():
            for name in BEHAVIOURS:
                _check("behaviour", name, partial(run_behaviour, name, public_forward, device), kind)
    for name in MIXED_BEHAVIOURS:
        _check("behaviour", name, partial(run_behaviour, name, public_forward, device))


def _combine(arguments: argparse.Namespace, device: torch.device) -> None:
    for kind in kinds_on(device):
        if kind.combines:
            with kind.alone():
                for case in combine_cases(arguments.quick):
                    run = partial(run_combine_case, case, flash_attn_combine, device)
                    _check("combine", case.name, run, kind)


def _compiled_kinds(device: torch.device) -> tuple[Kind, ...]:
    """Return the kinds without PTX, which is the same source as the portable cubins."""
    return tuple(kind for kind in kinds_on(device) if kind.code != Code.PTX)


def _fresh(_arguments: argparse.Namespace, _device: torch.device) -> None:
    for name in FRESH:
        _check("fresh", name, partial(run_fresh, name))


def _race(arguments: argparse.Namespace, device: torch.device) -> None:
    load_peer(arguments.peer)
    kinds = kinds_on(device)
    rounds, with_fa3 = 7 if arguments.quick else 21, bool(arguments.peer)
    for run in range(1, arguments.race_runs + 1):
        race_one = partial(race, device=device, rounds=rounds, run=run, with_fa3=with_fa3)
        for setting in settings(arguments.quick, kinds[0].head_dims):
            if _is_chosen(setting.name, arguments.race):
                _emit("start", section="race", name=setting.name)
                _emit("race", race=race_one(setting).as_dict())
        for kind in kinds:
            if kind.code == Code.PORTABLE and not kind.as_long:
                _race_portable(kind, arguments, race_one)


def _race_portable(kind: Kind, arguments: argparse.Namespace, race_one: Callable[..., Race]) -> None:
    for setting in portable_settings():
        name = race_name(setting, kind.name)
        if _is_chosen(name, arguments.race):
            _emit("start", section="race", name=name)
            with kind.alone():
                _emit("race", race=race_one(setting, kernels=kind.name).as_dict())


def _is_chosen(name: str, patterns: Sequence[str]) -> bool:
    return not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)


def _host_time(_arguments: argparse.Namespace, device: torch.device) -> None:
    _emit("start", section="host_time", name="eager")
    for measured in host_times(device):
        _emit("host_time", host_time=asdict(measured))


SECTIONS: dict[str, Callable[[argparse.Namespace, torch.device], None]] = {
    "correctness": _correctness,
    "combine": _combine,
    "memory": _memory,
    "behaviour": _behaviour,
    "fresh": _fresh,
    "race": _race,
    "host_time": _host_time,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one section; the exit code is 0 whenever the section ran to its end, whatever it found."""
    parser = argparse.ArgumentParser(prog="python -m flash_attn3.checks", description=__doc__)
    parser.add_argument("section", choices=("environment", *SECTIONS))
    parser.add_argument("--quick", action="store_true", help="a small selection of the cases")
    parser.add_argument(
        "--samples", type=int, default=100, help="random cases beside the fixed ones (default: 100)"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the random cases (default: 1)")
    parser.add_argument(
        "--race", action="append", default=[], metavar="GLOB", help="race only settings of such names"
    )
    parser.add_argument("--race-runs", type=int, default=1, help="race each setting so often (default: 1)")
    parser.add_argument(
        "--peer",
        action="append",
        default=[],
        type=Path,
        metavar="PATH",
        help="race the FlashAttention-3 of this shared library, too; of several, each is loaded in turn",
    )
    arguments = parser.parse_args(argv)
    device = torch.device("cuda", 0) if torch.cuda.is_available() else None
    if arguments.section == "environment":
        _environment(arguments, device)
    elif device is None:
        print("no GPU: torch.cuda.is_available() is False", file=sys.stderr)
        return 2
    else:
        with torch.cuda.device(device):
            SECTIONS[arguments.section](arguments, device)
    _emit("end")
    return 0


if __name__ == "__main__":
    sys.exit(main())
