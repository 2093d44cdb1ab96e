"""Times the rows that `--prepare` laid out, on this machine's GPU, and says which the table should hold.

Needs the folder that was prepared, Python, torch and a GPU, and nothing else. Every row is in a pack of its
own; the packs take turns under the same public calls, window by window in one process, for only a ratio of
neighbours in time counts. A row whose output is wrong is not timed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ci.errors import FarmError, NoGpu
from ci.gpu_side.report_file import write_report

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PLAN = "plan.json"
SEQLENS = (512, 1024, 2048, 4096, 16384)
MARGIN = 1.01
"""How much faster than the present row another has to be: what two runs differ by is less."""
_WINDOW = 1024
_MASKS: dict[str, tuple[tuple[bool, bool], ...]] = {
    "full": ((False, False),),
    "causal": ((True, False),),
    "local": ((True, True),),
    "any": ((False, False), (True, False)),
}
"""Mask of a row -> the calls that stand for it: whether causal, and whether with a window."""


@dataclass(frozen=True)
class Row:
    """A row of the plan. ``min_seqlen_q`` is where the table has it begin; None for a candidate."""

    name: str
    pack: Path
    min_seqlen_q: int | None
    macros: dict[str, str]


@dataclass(frozen=True)
class Case:
    """The rows that compete for one kind of calls."""

    name: str
    dtype: str
    head_dim: int
    head_dim_v: int
    mask: str
    rows: tuple[Row, ...]

    def present(self, seqlen: int) -> Row:
        """Return the row that the table has serve a length."""
        starts = {row.min_seqlen_q: row for row in self.rows if row.min_seqlen_q is not None}
        return starts[max(start for start in starts if start <= seqlen)]


@dataclass(frozen=True)
class Measured:
    """One row under one setting: milliseconds a call, and how many times as fast as the present row."""

    setting: str
    seqlen: int
    row: str
    ms: float | None
    ratio: float | None
    failures: tuple[str, ...]


def read_plan(folder: Path) -> tuple[Case, ...]:
    """Read the plan of a prepared folder.

    Raises:
        FarmError: the folder holds none, or one that cannot be read.
    """
    try:
        document = json.loads((folder / PLAN).read_text(encoding="utf-8"))
        return tuple(
            Case(
                **{
                    **case,
                    "rows": tuple(Row(**{**row, "pack": folder / row["pack"]}) for row in case["rows"]),
                }
            )
            for case in document["cases"]
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FarmError(f"--run {folder}: holds no plan of `farm tune --prepare`: {error}") from error


def calls_of(mask: str, seqlen: int) -> tuple[tuple[bool, int | None], ...]:
    """Return the calls that stand for the mask of a row at a length: causal, and the window or None."""
    # A window that hides nothing is dropped by the call, which then asks for a row of another mask.
    window = min(_WINDOW, seqlen // 2)
    return tuple((causal, window if windowed else None) for causal, windowed in _MASKS[mask])


def recommend(case: Case, ratios: Mapping[int, Mapping[str, float]]) -> tuple[tuple[str, int], ...]:
    """Return the rows that should serve a case, each with the length from which it does (its min_seqlen_q).

    Args:
        case: says which row is present at each length, which stays unless another beats it by ``MARGIN``.
        ratios: length -> row -> how many times as fast as the present row of that length it is.
    """
    best: list[tuple[str, int]] = []
    for seqlen in sorted(ratios):
        name = max(ratios[seqlen], key=lambda row: ratios[seqlen][row], default="")
        wins = bool(name) and ratios[seqlen][name] >= MARGIN
        best.append((name if wins else case.present(seqlen).name, seqlen))
    changes = [best[0], *(right for left, right in pairwise(best) if left[0] != right[0])] if best else []
    starts = {row.name: row.min_seqlen_q for row in case.rows}
    # A row that the table lets begin between two lengths keeps its start.
    return tuple(
        (name, 0 if number == 0 else _start(starts.get(name), seqlen, ratios))
        for number, (name, seqlen) in enumerate(changes)
    )


def _start(known: int | None, seqlen: int, ratios: Mapping[int, object]) -> int:
    shorter = max(other for other in ratios if other < seqlen)
    return known if known is not None and shorter < known <= seqlen else seqlen


def tune(folder: Path, report: Path, *, rounds: int) -> None:
    """Time every case of a prepared folder and write the report, anew after each case.

    Raises:
        FarmError: the folder holds no plan, or a case could not be decided; the report says why.
        NoGpu: there is no torch, or it sees no GPU.
    """
    cases = read_plan(folder)
    bench = _Bench((folder / "site").resolve(), rounds)
    found: list[dict[str, Any]] = []
    for case in cases:
        measured, error = bench.measure(case)
        recommended = () if error else recommend(case, ratios_of(measured))
        present = tuple((row.name, row.min_seqlen_q) for row in case.rows if row.min_seqlen_q is not None)
        verdict = "undecided" if not recommended else "keep" if set(recommended) == set(present) else "change"
        found.append(
            {
                "name": case.name,
                "present": [_told(case, name, start) for name, start in present],
                "recommended": [_told(case, name, start) for name, start in recommended],
                "verdict": verdict,
                "error": error,
                "measured": [vars(result) for result in measured],
            }
        )
        write_report(report, {"schema_version": 1, **bench.machine, "rounds": rounds, "cases": found})
        _say(case, measured, error)
        print(f"  {verdict}: {', '.join(f'{name} from {start}' for name, start in recommended)}", flush=True)
    print(f"report: {report}", flush=True)
    undecided = [case["name"] for case in found if case["error"]]
    if undecided:
        raise FarmError(f"{len(undecided)} of {len(found)} cases are undecided: {', '.join(undecided)}")


def _told(case: Case, name: str, start: int | None) -> dict[str, Any]:
    macros = next(row.macros for row in case.rows if row.name == name)
    return {"row": name, "min_seqlen_q": start, "macros": macros}


def ratios_of(measured: Sequence[Measured]) -> dict[int, dict[str, float]]:
    """Return length -> row -> ratio, the geometric mean where several settings stand for a mask.

    A row that was wrong once is nowhere among them.
    """
    wrong = {result.row for result in measured if result.failures}
    gathered: dict[int, dict[str, list[float]]] = {}
    for result in measured:
        if result.ratio is not None and result.row not in wrong:
            gathered.setdefault(result.seqlen, {}).setdefault(result.row, []).append(result.ratio)
    return {
        seqlen: {row: statistics.geometric_mean(values) for row, values in rows.items()}
        for seqlen, rows in gathered.items()
    }


class _Bench:
    """The GPU with the prepared package; torch and the package are imported only here, from the folder."""

    def __init__(self, site: Path, rounds: int) -> None:
        try:
            import torch  # noqa: PLC0415 (only a machine that runs this has it)
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
        self._native, self._race, self._setting = _native, race, AttentionSetting
        self._races = races_of("fwd")
        self._rounds = rounds
        self._serving = ""
        self.machine = describe_environment(self._device)
        self.machine.pop("kernels")  # each row is told with its own case
        package = Path(self.machine.pop("package_folder"))
        if not package.is_relative_to(site):
            raise FarmError(f"flash_attn3 was imported from {package}, not from {site}")

    def measure(self, case: Case) -> tuple[list[Measured], str]:
        """Measure a case at every length; what ends it or leaves it undecided is told."""
        measured: list[Measured] = []
        try:
            for seqlen in SEQLENS:
                for causal, window in calls_of(case.mask, seqlen):
                    head_dim_v = None if case.head_dim_v == case.head_dim else case.head_dim_v
                    setting = self._setting(
                        case.dtype, case.head_dim, causal, seqlen, head_dim_v=head_dim_v, window=window
                    )
                    measured += self._measure(case, setting)
        except RuntimeError as error:
            return measured, f"{self._serving}: {str(error).splitlines()[0]}"
        present = {row.name for row in case.rows if row.min_seqlen_q is not None}
        wrong = sorted({result.row for result in measured if result.failures} & present)
        return measured, f"the table's {', '.join(wrong)} is wrong" if wrong else ""

    def _measure(self, case: Case, setting: Any) -> list[Measured]:
        race, races, present = self._race, self._races, case.present(setting.seqlen)
        inputs = races.inputs(setting, self._device)
        failures: dict[str, tuple[str, ...]] = {}
        for row in case.rows:
            self._choose(row, setting, inputs)
            out = race.time_window(races, races.ours, setting, inputs, 2).out
            failures[row.name] = races.judge(setting, inputs, out)
        right = [row for row in case.rows if not failures[row.name]]
        times: dict[str, list[float]] = {row.name: [] for row in right}
        self._choose(present, setting, inputs)
        calls = race.calls_per_window(races, races.ours, setting, inputs)
        for turn in range(self._rounds):
            inputs = races.inputs(setting, self._device)
            for row in right if turn % 2 == 0 else reversed(right):
                self._choose(row, setting, inputs)
                times[row.name].append(race.time_window(races, races.ours, setting, inputs, calls).ms)
        return [
            Measured(
                setting.name,
                setting.seqlen,
                row.name,
                statistics.median(times[row.name]) if row in right else None,
                _ratio(times, row.name, present.name),
                failures[row.name],
            )
            for row in case.rows
        ]

    def _choose(self, row: Row, setting: Any, inputs: Any) -> None:
        """Let a row serve the calls from here on; its first one, which loads it, is made here."""
        self._serving = row.name
        self._native.set_pack(row.pack)
        self._races.ours(setting, inputs)


def _ratio(times: Mapping[str, Sequence[float]], row: str, present: str) -> float | None:
    if row not in times or present not in times:
        return None
    return statistics.median(theirs / ours for theirs, ours in zip(times[present], times[row], strict=True))


def _say(case: Case, measured: Sequence[Measured], error: str) -> None:
    print(f"{case.name}{f': {error}' if error else ''}")
    for result in measured:
        words = f"not timed: {'; '.join(result.failures) or 'the present row is wrong'}"
        if result.ratio is not None:
            words = f"{result.ratio:.3f} x the present row, {result.ms:.4f} ms"
        print(f"  {result.setting:32} {result.row:44} {words}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line: ``farm tune --run``."""
    parser = argparse.ArgumentParser(prog="farm tune", description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="the folder that --prepare filled")
    parser.add_argument("--report", type=Path, required=True, help="the JSON report to write")
    parser.add_argument("--rounds", type=int, default=11, help="windows a row and setting (default: 11)")
    arguments = parser.parse_args(argv)
    if arguments.rounds < 2:
        parser.error(f"--rounds {arguments.rounds}: must be 2 or more")
    try:
        tune(arguments.run, arguments.report, rounds=arguments.rounds)
    except FarmError as error:
        print(f"farm: error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"farm: error: {error}", file=sys.stderr)
        return FarmError.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
