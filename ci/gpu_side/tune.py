"""Times the variants of a prepared folder on this machine's GPU and recommends which the table should hold.

Needs the folder, Python, torch and a GPU. Each variant is in a pack of its own. The packs take turns under
the same public calls in one process: clocks and temperature drift, so only ratios of times measured one after
the other count. A variant with a wrong output is not timed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ci.errors import FarmError, NoGpu
from ci.gpu_side.command import exit_code_of
from ci.gpu_side.recommendation import Measured, ratios_of, recommend
from ci.gpu_side.report_file import write_report
from ci.gpu_side.tune_plan import Contender, Task, calls_of, read_plan

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SEQLENS = (512, 1024, 2048, 4096, 16384)


def tune(folder: Path, report: Path, *, rounds: int) -> int:
    """Time every task of a prepared folder; the report is rewritten after each task.

    Args:
        folder: that ``farm tune --prepare`` wrote.
        report: the JSON file to write.
        rounds: timed windows of each variant and setting.

    Returns:
        0, the exit code.

    Raises:
        FarmError: the folder holds no plan, or a task is undecided; the report has the reason.
        NoGpu: torch is missing, or cannot use a GPU.
    """
    tasks = read_plan(folder)
    bench = _Bench((folder / "site").resolve(), rounds)
    found: list[dict[str, Any]] = []
    for task in tasks:
        measured, error = bench.measure(task)
        recommended = () if error else recommend(task, ratios_of(measured))
        present = tuple(
            (variant.name, variant.min_seqlen_q)
            for variant in task.variants
            if variant.min_seqlen_q is not None
        )
        unchanged = set(recommended) == set(present)
        decision = "undecided" if not recommended else "keep" if unchanged else "change"
        found.append(
            {
                "name": task.name,
                "present": [_described(task, name, start) for name, start in present],
                "recommended": [_described(task, name, start) for name, start in recommended],
                "decision": decision,
                "error": error,
                "measured": [vars(result) for result in measured],
            }
        )
        write_report(report, {"schema_version": 2, **bench.machine, "rounds": rounds, "tasks": found})
        _print_measured(task, measured, error)
        starts = ", ".join(f"{name} from {start}" for name, start in recommended)
        print(f"  {decision}: {starts}", flush=True)
    print(f"report: {report}", flush=True)
    undecided = [task["name"] for task in found if task["error"]]
    if undecided:
        raise FarmError(f"{len(undecided)} of {len(found)} tasks are undecided: {', '.join(undecided)}")
    return 0


def _described(task: Task, name: str, start: int | None) -> dict[str, Any]:
    macros = next(variant.macros for variant in task.variants if variant.name == name)
    return {"variant": name, "min_seqlen_q": start, "macros": macros}


class _Bench:
    """The GPU and the package of the prepared folder."""

    def __init__(self, site: Path, rounds: int) -> None:
        try:
            import torch  # noqa: PLC0415 (only a machine that times has it)
        except ImportError as error:
            raise NoGpu(f"{sys.executable} cannot import torch, which tuning needs: {error}") from error
        if not torch.cuda.is_available():
            raise NoGpu(f"no GPU to tune on: torch {torch.__version__} of {sys.executable} sees none")
        sys.path.insert(0, str(site))
        from flash_attn3 import _native  # noqa: PLC0415
        from flash_attn3.checks.environment import describe_environment  # noqa: PLC0415
        from flash_attn3.checks.ops import races_of  # noqa: PLC0415
        from flash_attn3.checks.speed import race  # noqa: PLC0415
        from flash_attn3.checks.speed.race_settings import AttentionSetting  # noqa: PLC0415

        self._device = torch.device("cuda", 0)
        self._native, self._race, self._races_of, self._setting = _native, race, races_of, AttentionSetting
        self._rounds = rounds
        self._serving = ""
        self.machine = describe_environment(self._device)
        self.machine.pop("kernels")  # each task lists its own
        package = Path(self.machine.pop("package_folder"))
        if not package.is_relative_to(site):
            raise FarmError(f"flash_attn3 was imported from {package}, not from {site}")

    def measure(self, task: Task) -> tuple[list[Measured], str]:
        """Measure a task at every length; return the results, and the error if it is undecided."""
        measured: list[Measured] = []
        try:
            for seqlen in SEQLENS:
                for causal, window in calls_of(task.mask, seqlen):
                    head_dim_v = None if task.head_dim_v == task.head_dim else task.head_dim_v
                    setting = self._setting(
                        task.dtype, task.head_dim, causal, seqlen, head_dim_v=head_dim_v, window=window
                    )
                    measured += self._measure(task, setting)
        except RuntimeError as error:
            return measured, f"{self._serving}: {str(error).splitlines()[0]}"
        present = {variant.name for variant in task.variants if variant.min_seqlen_q is not None}
        wrong = sorted({result.variant for result in measured if result.failures} & present)
        return measured, f"the table's {', '.join(wrong)} is wrong" if wrong else ""

    def _measure(self, task: Task, setting: Any) -> list[Measured]:
        race, races, present = self._race, self._races_of(task.op), task.present(setting.seqlen)
        inputs = races.inputs(setting, self._device)
        failures: dict[str, tuple[str, ...]] = {}
        for variant in task.variants:
            self._choose(variant, races, setting, inputs)
            out = race.time_window(races, races.ours, setting, inputs, 2).out
            failures[variant.name] = races.judge(setting, inputs, out)
        right = [variant for variant in task.variants if not failures[variant.name]]
        times: dict[str, list[float]] = {variant.name: [] for variant in right}
        self._choose(present, races, setting, inputs)
        calls = race.calls_per_window(races, races.ours, setting, inputs)
        for turn in range(self._rounds):
            inputs = races.inputs(setting, self._device)
            for variant in right if turn % 2 == 0 else reversed(right):
                self._choose(variant, races, setting, inputs)
                window = race.time_window(races, races.ours, setting, inputs, calls)
                times[variant.name].append(window.ms)
        return [
            Measured(
                setting.name,
                setting.seqlen,
                variant.name,
                statistics.median(times[variant.name]) if variant in right else None,
                _ratio(times, variant.name, present.name),
                failures[variant.name],
            )
            for variant in task.variants
        ]

    def _choose(self, variant: Contender, races: Any, setting: Any, inputs: Any) -> None:
        """Load a variant and make its first call, so that the timed calls find it loaded."""
        self._serving = variant.name
        self._native.set_pack(variant.pack)
        races.ours(setting, inputs)


def _ratio(times: Mapping[str, Sequence[float]], variant: str, present: str) -> float | None:
    if variant not in times or present not in times:
        return None
    pairs = zip(times[present], times[variant], strict=True)
    return statistics.median(theirs / ours for theirs, ours in pairs)


def _print_measured(task: Task, measured: Sequence[Measured], error: str) -> None:
    print(f"{task.name}{f': {error}' if error else ''}")
    for result in measured:
        words = f"not timed: {'; '.join(result.failures) or 'the present variant is wrong'}"
        if result.ratio is not None:
            words = f"{result.ratio:.3f} x the present variant, {result.ms:.4f} ms"
        print(f"  {result.setting:32} {result.variant:44} {words}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line: ``farm tune --run``."""
    parser = argparse.ArgumentParser(prog="farm tune", description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="the folder that --prepare wrote")
    parser.add_argument("--report", type=Path, required=True, help="the JSON report to write")
    parser.add_argument(
        "--rounds", type=int, default=11, help="timed windows of each variant and setting (default: 11)"
    )
    arguments = parser.parse_args(argv)
    if arguments.rounds < 2:
        parser.error(f"--rounds {arguments.rounds}: must be 2 or more")
    return exit_code_of(lambda: tune(arguments.run, arguments.report, rounds=arguments.rounds))


if __name__ == "__main__":
    sys.exit(main())
