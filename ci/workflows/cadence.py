"""Which Mondays release: every N weeks, counted from a fixed Monday, so that no year's end shifts them.

The workflow runs it with the standard library alone: ``python3 -m ci.workflows.cadence --every 14``.
"""

from __future__ import annotations

import argparse
import sys
from datetime import date, datetime, timezone
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_FIRST_MONDAY = date(1970, 1, 5)


def is_due(day: date, cadence_days: int) -> bool:
    """Return whether the week of ``day`` is one that releases.

    Weeks start on Monday and are counted from 1970-01-05. The parity of ISO weeks would not do: some years
    have 53.

    Args:
        day: a day in UTC.
        cadence_days: days between two releases, a multiple of 7.
    """
    weeks = (day - _FIRST_MONDAY).days // 7
    return weeks % (cadence_days // 7) == 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Print ``due=true`` or ``due=false``, as a step of a workflow sets an output."""
    parser = argparse.ArgumentParser(prog="python3 -m ci.workflows.cadence", description=main.__doc__)
    parser.add_argument("--every", metavar="DAYS", type=int, required=True, help="a multiple of 7")
    parser.add_argument(
        "--event", default="schedule", help="what started the workflow: all but schedule is always due"
    )
    parser.add_argument("--day", type=date.fromisoformat, help="such as 2026-11-30 [default: today in UTC]")
    options = parser.parse_args(arguments)
    if options.every <= 0 or options.every % 7:
        parser.error(f"--every: should be a multiple of 7, got {options.every}")
    day = options.day or datetime.now(timezone.utc).date()
    due = options.event != "schedule" or is_due(day, options.every)
    print(f"due={str(due).lower()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
