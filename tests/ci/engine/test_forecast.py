"""The time left, with a clock that a test moves."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from ci.engine.cost import Costs
from ci.engine.forecast import Forecast, in_words
from ci.engine.process import Usage
from tests.quiet import Quiet


@dataclass
class Texts(Quiet):
    texts: list[str] = field(default_factory=list)

    def step(self, done: int, total: int, text: str) -> None:
        super().step(done, total, text)
        self.texts.append(text)


def test_the_time_left_follows_the_costs_and_the_pace():
    costs = Costs({"long": Usage(30, 1), "middle": Usage(10, 1), "short": Usage(5, 1)})
    progress, times = Texts(), iter([100.0, 115.0, 120.0])
    forecast = Forecast(["long", "middle", "short"], costs, progress, lambda: next(times))
    for name in ("long", "middle", "short"):
        forecast.finish(name)
    # 30 of 45 s of processor time took 15 s, 40 took 20.
    assert progress.texts == ["compile long, 8 s left", "compile middle, 2 s left", "compile short"]
    assert progress.steps == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "0 s"), (99, "99 s"), (100, "2 min"), (3500, "58 min"), (7500, "2 h 05 min")]
)
def test_times_in_words(seconds: float, words: str):
    assert in_words(seconds) == words
