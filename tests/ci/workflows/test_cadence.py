"""Every second Monday, over years, and as the step of the workflow prints it."""

from __future__ import annotations

import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci.workflows.cadence import is_due

ROOT = Path(__file__).parents[3]
DAYS = st.dates(date(2000, 1, 1), date(2099, 12, 31))


@given(DAYS)
def test_of_two_weeks_in_a_row_one_is_due(day: date):
    assert is_due(day, 14) != is_due(day + timedelta(days=7), 14)


@given(DAYS, st.integers(1, 8))
def test_releases_are_a_cadence_apart(day: date, weeks: int):
    mondays = [day - timedelta(days=day.weekday()) + timedelta(weeks=number) for number in range(2 * weeks)]
    assert [is_due(monday, 7 * weeks) for monday in mondays].count(True) == 2
    assert all(is_due(monday, 7 * weeks) == is_due(day, 7 * weeks) for monday in (mondays[0], mondays[weeks]))


def test_a_year_of_53_weeks_shifts_nothing():
    """2026 has 53 ISO weeks, so that the parity of ISO weeks repeats itself at its end."""
    mondays = [date(2026, 12, 14) + timedelta(weeks=number) for number in range(6)]
    assert [monday.isocalendar().week % 2 for monday in mondays] == [1, 0, 1, 1, 0, 1]
    assert [is_due(monday, 14) for monday in mondays] == [False, True, False, True, False, True]


def step(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-S", "-m", "ci.workflows.cadence", *arguments]
    return subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("arguments", "due"),
    [
        (["--day", "2026-12-21"], "true"),
        (["--day", "2026-12-28"], "false"),
        (["--day", "2026-12-28", "--event", "workflow_dispatch"], "true"),
    ],
)
def test_the_step_needs_python_alone_and_prints_an_output(arguments: list[str], due: str):
    done = step("--every", "14", *arguments)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"due={due}\n", "")


def test_a_cadence_of_no_whole_weeks_is_refused():
    done = step("--every", "10")
    assert done.returncode == 2
    assert "--every: should be a multiple of 7, got 10" in done.stderr
