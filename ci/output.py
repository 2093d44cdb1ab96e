"""Reads what a child process wrote: its last line, and whether its disk was full."""

from __future__ import annotations

_DISK_FULL = "No space left"
"""The start of strerror(ENOSPC), which compilers and pip print."""


def last_line(text: str, otherwise: str) -> str:
    """Return the last line of ``text`` that is not blank, or ``otherwise`` if there is none."""
    lines = text.strip().splitlines()
    return lines[-1] if lines else otherwise


def reports_full_disk(text: str) -> bool:
    """Return whether a program that wrote ``text`` failed because its disk had no room left."""
    return _DISK_FULL in text
