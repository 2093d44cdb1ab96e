"""The speed gate on the report of the tree, with races made slower and taken away."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ci.errors import NotJudged
from ci.gpu_side.report_file import DIGEST_FIELD, report_digest
from ci.proof.report import read_report
from ci.proof.speed_gate import compare_speed

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[3]
KEPT = max((ROOT / "validation").glob("*.json"))
RATIOS = ("ratio_to_cudnn", "ratio_to_flash", "ratio_to_fa3")


def edited(path: Path, edit: Callable[[dict[str, Any]], None]) -> Path:
    """Write the report with an edit, whole again."""
    document = json.loads(KEPT.read_text(encoding="utf-8"))
    edit(document)
    document[DIGEST_FIELD] = report_digest(document)
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def scale(factors: dict[int, float], others: tuple[str, ...] = RATIOS) -> Callable[[dict[str, Any]], None]:
    """Make races, by their numbers, faster by a factor than the others."""

    def edit(document: dict[str, Any]) -> None:
        for number, factor in factors.items():
            for key in others:
                if document["races"][number][key] is not None:
                    document["races"][number][key] *= factor

    return edit


def farm_gate(new: Path, against: Path = KEPT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ci", "gate", str(new), "--against", str(against)]
    return subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)


def test_the_same_speed_passes(tmp_path: Path):
    done = farm_gate(edited(tmp_path / "r.json", scale({0: 0.975, 1: 1.2})))
    assert done.returncode == 0, done.stderr
    races = read_report(KEPT).races
    assert all(race.name in done.stdout for race in races)
    assert (
        f"geometric mean of {len({(race.name, race.kernels) for race in races})} races: 1.00" in done.stdout
    )


def test_one_slower_cell_fails_with_its_name_and_the_table(tmp_path: Path):
    done = farm_gate(edited(tmp_path / "r.json", scale({3: 0.96})))
    assert done.returncode == 50
    name = read_report(KEPT).races[3].name
    assert done.stderr.startswith("farm: error: flash_attn3-")
    assert done.stderr.endswith(f": {name}\n")
    assert "0.960" in next(line for line in done.stdout.splitlines() if name in line)


def test_a_mean_that_is_slower_fails_though_each_cell_passes(tmp_path: Path):
    count = len(read_report(KEPT).races)
    done = farm_gate(edited(tmp_path / "r.json", scale(dict.fromkeys(range(count), 0.985))))
    assert done.returncode == 50
    assert done.stderr.endswith(": the mean of all races\n")


def test_each_of_the_others_counts_alike(tmp_path: Path):
    """One other of a race is 2 % faster than before, for example by a new release of it."""
    report = read_report(edited(tmp_path / "r.json", scale({0: 0.98}, ("ratio_to_cudnn",))))
    row = compare_speed(report, read_report(KEPT)).rows[0]
    assert row.kept == pytest.approx(0.98 ** (1 / len(row.before)))


def rename(document: dict[str, Any]) -> None:
    document["gpu"] = "NVIDIA H100"


def forget(document: dict[str, Any]) -> None:
    document["races"].pop(5)
    document["totals"]["races"] -= 1


@pytest.mark.parametrize(
    ("edit", "reason"),
    [(rename, "GPU, NVIDIA H200, is of NVIDIA H100"), (forget, "should have run against cudnn or flash")],
)
def test_what_cannot_be_judged_says_so_with_its_own_code(
    tmp_path: Path, edit: Callable[[dict[str, Any]], None], reason: str
):
    new = edited(tmp_path / "r.json", edit)
    done = farm_gate(new)
    assert done.returncode == 51
    assert reason in done.stderr
    with pytest.raises(NotJudged):
        compare_speed(read_report(new), read_report(KEPT))
