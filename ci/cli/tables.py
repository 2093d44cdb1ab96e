"""Prints results to standard output: tables for people, JSON for programs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ci.check import Check

out = Console(highlight=False)
if not out.is_terminal:
    out.width = 250  # a file or a pipe has no width, and rich's default would cut names


def table(*columns: str) -> Table:
    """Return an empty table whose first column is never wrapped; a long word of the others is."""
    empty = Table(box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    empty.add_column(columns[0], no_wrap=True)
    for column in columns[1:]:
        empty.add_column(column, overflow="fold")
    return empty


def print_checks(wheel: Path, checks: Sequence[Check]) -> None:
    """Print the checks of a wheel's audit."""
    out.print(f"audit of {wheel.name}", soft_wrap=True)
    listing = table("check", "", "details")
    for check in checks:
        listing.add_row(check.name, "[green]ok[/]" if check.ok else "[red]FAILED[/]", escape(check.detail))
    out.print(listing)


def print_json(document: object) -> None:
    """Print JSON."""
    click.echo(json.dumps(document, indent=1))
