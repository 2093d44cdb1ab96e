"""The measured costs: added up, kept from one run to the next, and what they say of the next run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci.engine.cost import USAGE, Costs, keep_costs, read_costs, total_cost
from ci.engine.process import Usage
from tests.quiet import Quiet

if TYPE_CHECKING:
    from pathlib import Path

GB = 1_000_000_000
COSTS = Costs({"short": Usage(2, GB // 5), "long": Usage(9, 2 * GB // 5), "middle": Usage(4, GB)})


def test_costs_add_up_and_name_the_largest():
    jobs = {
        name: {USAGE: json.dumps({"cpu_seconds": seconds, "memory_bytes": memory}).encode()}
        for name, seconds, memory in (("one", 1.5, 10), ("two", 2.0, 30), ("three", 0.25, 20))
    }
    cost = total_cost(jobs.items())
    assert (cost.cpu_seconds, cost.largest, cost.memory_bytes) == (3.75, "two", 30)


def test_the_longest_job_is_first_and_one_that_may_be_longer_before_it():
    names = ["short", "new", "middle", "long"]
    assert COSTS.longest_first(names) == ["new", "long", "middle", "short"]
    assert Costs({}).longest_first(names) == names
    assert (COSTS.seconds("long"), COSTS.seconds("new"), Costs({}).seconds("new")) == (9, 5, 1)


@pytest.mark.parametrize(
    ("names", "processors", "memory", "parallel"),
    [
        (["short", "long", "middle"], 8, 10 * GB, 3),
        (["short", "long", "middle"], 2, 10 * GB, 2),
        (["short", "long", "middle"], 8, 1_999_000_000, 2),  # 1.25 + 0.5 + 0.25 GB
        (["short", "long", "middle"], 8, 2_000_000_000, 3),
        (["short", "long"], 8, 600_000_000, 1),
        (["middle"], 8, 1000, 1),
        (["new", "newer"], 8, 1_900_000_000, 1),
    ],
)
def test_as_many_run_at_once_as_fit_into_the_memory(
    names: list[str], processors: int, memory: int, parallel: int
):
    assert COSTS.parallel_jobs(names, processors=processors, memory=memory) == parallel


@given(st.lists(st.integers(0, 5 * GB), min_size=1, max_size=12), st.integers(0, 20 * GB))
def test_no_choice_of_running_jobs_needs_more_than_the_memory(sizes: list[int], memory: int):
    costs = Costs({str(number): Usage(1, size) for number, size in enumerate(sizes)})
    parallel = costs.parallel_jobs(list(costs.measured), processors=64, memory=memory)
    largest = sorted(map(costs.memory, costs.measured), reverse=True)[:parallel]
    assert parallel == 1 or sum(largest) <= memory


def test_costs_are_kept(tmp_path: Path):
    file = tmp_path / "costs.json"
    assert read_costs(file, Quiet()) == Costs({})
    keep_costs(file, COSTS)
    assert read_costs(file, Quiet()) == COSTS
    assert COSTS.updated({"long": Usage(1, 1)}).measured["long"] == Usage(1, 1)


@pytest.mark.parametrize("damage", [b"", b"[1]", b'{"one": 1}', b'{"one": {"cpu_seconds": 1}}', b"\xff"])
def test_damaged_costs_are_none_with_a_warning(tmp_path: Path, damage: bytes):
    file, progress = tmp_path / "costs.json", Quiet()
    file.write_bytes(damage)
    assert read_costs(file, progress) == Costs({})
    (warning,) = progress.warned
    assert warning.startswith(f"{file}: should be the costs of earlier compiles, is damaged")
