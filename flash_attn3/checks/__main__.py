"""``python -m flash_attn3.checks SECTION`` runs one section and prints each result as a line of JSON.

The farm's ``validate`` runs every section in a process of its own, so that a crash loses one section only.
Each line is an object with the key ``event``: ``environment``, ``start`` (before a check, so that a crash can
be attributed to it), ``outcome``, ``race``, ``host_time`` or ``end``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from flash_attn3._native import Code
from flash_attn3.checks.behaviour.behaviour import run_behaviour
from flash_attn3.checks.behaviour.fresh_process import run_fresh
from flash_attn3.checks.environment import describe_environment
from flash_attn3.checks.kinds import Kind, kernels_on, kinds_of
from flash_attn3.checks.ops import op_checks
from flash_attn3.checks.ops.opcheck import OpCheck, Selection
from flash_attn3.checks.speed.host_time import host_times
from flash_attn3.checks.speed.race import Race, race, race_name
from flash_attn3.checks.speed.race_peer import load_peer
from flash_attn3.checks.trial import Trial

if TYPE_CHECKING:
    from flash_attn3.checks.outcome import Outcome

AnyCheck = OpCheck[Any, Any, Any]
Section = Callable[[argparse.Namespace, torch.device], None]


def _emit(event: str, **fields: Any) -> None:
    print(json.dumps({"event": event, **fields}), flush=True)


def _check(
    section: str, name: str, run: Callable[[], Outcome], kind: Kind | None = None, kernel: str = ""
) -> None:
    """Run one check, with the kernels of a kind alone if one is given, and print its outcome."""
    _emit("start", section=section, name=kind.label(name) if kind else name)
    if kind is None:
        outcome = run()
    else:
        with kind.alone():
            outcome = kind.mark(run(), kernel)
    _emit("outcome", outcome=outcome.as_dict())


def _cases(check: AnyCheck, arguments: argparse.Namespace, device: torch.device) -> None:
    """Run each case of an operator with every kind of kernels that serves it."""
    kinds = kinds_of(kernels_on(device, check.op))
    for case in check.cases(Selection(arguments.quick, arguments.samples, arguments.seed)) if kinds else ():
        trial = Trial(check, case, device)
        run = partial(trial.run, check.function)
        try:
            serving = _serving(kinds if check.on_ptx(case) else _compiled(kinds), trial)
        except Exception as error:  # noqa: BLE001  the inputs or the library's answer; the next case runs
            _check(check.section, case.name, partial(trial.failed, error))
            continue
        for kind, kernel in serving:
            _check(check.section, case.name, run, kind, kernel)
        if not serving:  # the call fails, with the reason
            _check(check.section, case.name, run)


def _serving(kinds: Sequence[Kind], trial: Trial[Any, Any, Any]) -> list[tuple[Kind, str]]:
    """Return the kinds of which a kernel serves a trial, each with the name of the kernel."""
    found = [(kind, kind.find_kernel(trial.kernel)) for kind in kinds]
    return [(kind, kernel) for kind, kernel in found if kernel is not None]


def _compiled(kinds: Sequence[Kind]) -> tuple[Kind, ...]:
    """Return the kinds without PTX, which is compiled from the same source as the portable cubins."""
    return tuple(kind for kind in kinds if kind.code != Code.PTX)


def _memory(_arguments: argparse.Namespace, device: torch.device) -> None:
    for check in op_checks():
        kinds = _compiled(kinds_of(kernels_on(device, check.op)))
        for memory in check.memory() if kinds else ():
            run = partial(memory.run, check.function, device)
            for kind, kernel in _serving(kinds, Trial(check, memory.case, device)):
                _check("memory", memory.name, run, kind, kernel)


def _behaviour(_arguments: argparse.Namespace, device: torch.device) -> None:
    for check in op_checks():
        kernels = kernels_on(device, check.op)
        for kind in _compiled(kinds_of(kernels)) if check.behaviours else ():
            if not _serves_any(kind, check, device):
                continue
            for name, behaviour in check.behaviours.items():
                run = partial(run_behaviour, name, behaviour, check.function, device)
                _check("behaviour", name, run, kind)
        for name, behaviour in check.mixed_behaviours.items() if kernels else ():
            _check("behaviour", name, partial(run_behaviour, name, behaviour, check.function, device))


def _serves_any(kind: Kind, check: AnyCheck, device: torch.device) -> bool:
    """Return whether a kernel of a kind serves any quick case: few codes have kernels for long sequences."""
    cases = check.cases(Selection(quick=True))
    return any(_serving((kind,), Trial(check, case, device)) for case in cases)


def _fresh(_arguments: argparse.Namespace, device: torch.device) -> None:
    for check in op_checks():
        for name, run in check.fresh.items() if kernels_on(device, check.op) else ():
            _check("fresh", name, partial(run_fresh, name, run))


def _race(arguments: argparse.Namespace, device: torch.device) -> None:
    load_peer(arguments.peer)
    for run in range(1, arguments.race_runs + 1):
        for check in op_checks():
            for name, run_race in _races(check, run, arguments, device):
                if _is_chosen(name, arguments.race):
                    _emit("start", section="race", name=name)
                    _emit("race", race=run_race().as_dict())


def _races(
    check: AnyCheck, run: int, arguments: argparse.Namespace, device: torch.device
) -> Iterator[tuple[str, Callable[[], Race]]]:
    """Yield the races of an operator by name: with the kernels that a call prefers, then restricted ones."""
    kernels, races = kernels_on(device, check.op), check.races
    if races is None or not kernels:
        return
    start = partial(
        race,
        races,
        device=device,
        rounds=7 if arguments.quick else races.rounds,
        run=run,
        with_peers=bool(arguments.peer),
    )
    kinds = [kind for kind in kinds_of(kernels) if not kind.as_long]
    for setting in races.settings(arguments.quick, kernels):
        yield race_name(setting, ""), partial(start, setting)
    for kind in kinds:
        for setting in races.restricted[kind.code]() if kind.code in races.restricted else ():
            yield race_name(setting, kind.name), partial(_race_alone, kind, partial(start, setting))


def _race_alone(kind: Kind, start: Callable[..., Race]) -> Race:
    with kind.alone():
        return start(kernels=kind.name)


def _is_chosen(name: str, patterns: Sequence[str]) -> bool:
    return not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)


def _host_time(_arguments: argparse.Namespace, device: torch.device) -> None:
    _emit("start", section="host_time", name="eager")
    calls = [check.host_calls(device) for check in op_checks() if kernels_on(device, check.op)]
    for measured in host_times({name: call for some in calls for name, call in some.items()}, device):
        _emit("host_time", host_time=asdict(measured))


def sections() -> dict[str, Section]:
    """Return every section by name: one for the cases of each operator, then those of all operators."""
    return {
        **{check.section: partial(_cases, check) for check in op_checks()},
        "memory": _memory,
        "behaviour": _behaviour,
        "fresh": _fresh,
        "race": _race,
        "host_time": _host_time,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run one section.

    Returns:
        0 when the section ran to its end, whatever it found; 2 when there is no GPU, or none of the kernels
        runs on it.
    """
    parser = argparse.ArgumentParser(prog="python -m flash_attn3.checks", description=__doc__)
    parser.add_argument("section", choices=("environment", *sections()))
    parser.add_argument("--quick", action="store_true", help="run a small selection of the cases")
    parser.add_argument(
        "--samples", type=int, default=100, help="random cases beside the fixed ones (default: 100)"
    )
    parser.add_argument("--seed", type=int, default=1, help="seed of the random cases (default: 1)")
    parser.add_argument(
        "--race", action="append", default=[], metavar="GLOB", help="race only settings with matching names"
    )
    parser.add_argument("--race-runs", type=int, default=1, help="races of each setting (default: 1)")
    parser.add_argument(
        "--peer",
        action="append",
        default=[],
        type=Path,
        metavar="PATH",
        help="also race the FlashAttention-3 in this shared library; given more than once, load each in turn",
    )
    arguments = parser.parse_args(argv)
    device = torch.device("cuda", 0) if torch.cuda.is_available() else None
    if arguments.section == "environment":
        operators = {check.section: {"op": check.op, "categories": check.categories} for check in op_checks()}
        environment = describe_environment(device)
        _emit("environment", environment=environment, sections=[*sections()], operators=operators)
    elif device is None:
        print("no GPU: torch.cuda.is_available() is False", file=sys.stderr)
        return 2
    elif not any(kernels_on(device, check.op) for check in op_checks()):
        name = torch.cuda.get_device_name(device)
        print(f"no kernel of this package runs on {name}", file=sys.stderr)
        return 2
    else:
        with torch.cuda.device(device):
            sections()[arguments.section](arguments, device)
    _emit("end")
    return 0


if __name__ == "__main__":
    sys.exit(main())
