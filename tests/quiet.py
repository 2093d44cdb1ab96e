"""A reporter that stores what a stage reports, for tests to read."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Quiet:
    """Stores lines, warnings and steps."""

    said: list[str] = field(default_factory=list)
    warned: list[str] = field(default_factory=list)
    steps: list[tuple[int, int]] = field(default_factory=list)

    def say(self, text: str) -> None:
        self.said.append(text)

    def warn(self, text: str) -> None:
        self.warned.append(text)

    def step(self, done: int, total: int, text: str) -> None:
        del text
        self.steps.append((done, total))
