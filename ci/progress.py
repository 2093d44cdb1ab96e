"""The interface through which a stage reports its progress. The command line's is ``ci.cli.console``."""

from __future__ import annotations

from typing import Protocol


class Reporter(Protocol):
    """Receives the progress of a stage."""

    def say(self, text: str) -> None:
        """Report that something was done."""

    def warn(self, text: str) -> None:
        """Report a problem that does not stop the stage."""

    def step(self, done: int, total: int, text: str) -> None:
        """Report that ``done`` of ``total`` steps are over; ``done == total`` ends the progress bar."""
