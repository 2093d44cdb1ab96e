"""The outcome of one named check: what a gate such as the audit is a list of."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """A named check, whether it passed, and what was seen."""

    name: str
    ok: bool
    detail: str
