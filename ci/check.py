"""The result of one named check; the audit and the verification return lists of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One check: its name, whether it passed, and the values it compared."""

    name: str
    ok: bool
    detail: str
