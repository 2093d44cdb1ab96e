"""Reads text of others: the last line of a child process, whether its disk was full, a reason in one line."""

from __future__ import annotations

_DISK_FULL = "No space left"
"""The start of strerror(ENOSPC), which compilers and pip print."""


def last_line(text: str, otherwise: str) -> str:
    """Return the last line of ``text`` that is not blank, or ``otherwise`` if there is none."""
    lines = text.strip().splitlines()
    return lines[-1] if lines else otherwise


def is_one_line(text: str) -> bool:
    """Return whether a text is not blank, and holds neither a second line nor a control character."""
    return bool(text.strip()) and text.isprintable()


def reports_full_disk(text: str) -> bool:
    """Return whether a program that wrote ``text`` failed because its disk had no room left."""
    return _DISK_FULL in text
