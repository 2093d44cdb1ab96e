"""Charts: where a line goes, its axes, and the words in its place."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from index_site.charts import Axis, Line, axis_to, line_chart


@pytest.mark.parametrize(
    ("high", "low", "labels"),
    [
        (839.5, 0, ["0", "250", "500", "750"]),
        (1000, 0, ["0", "250", "500", "750", "1000"]),
        (70, 0, ["0", "20", "40", "60"]),
        (1.31, 1.0, ["1", "1.1", "1.2", "1.3"]),
        (1.05, 0.93, ["0.9", "0.95", "1", "1.05"]),
        (0, 0, ["0"]),
    ],
)
def test_ticks_are_round_and_start_at_or_below_the_lowest_value(
    high: float, low: float, labels: list[str]
) -> None:
    axis = axis_to(high, low)
    assert [label for _, label in axis.ticks] == labels
    assert axis.low <= low
    assert axis.high == high


def drawn(*lines: Line, x: Axis, y: Axis, label: str = "it") -> ET.Element:
    return ET.fromstring(line_chart(lines, x, y, label=label))  # noqa: S314 (our own text)


def test_points_are_where_the_axes_say() -> None:
    x, y = Axis(9, 14, ((9, "512"), (14, "16k"))), axis_to(800)
    chart = drawn(Line("ours", ((9, 0), (11.5, 400), (14, 800))), x=x, y=y)
    (polyline,) = chart.iter("polyline")
    points = [tuple(map(float, point.split(","))) for point in polyline.attrib["points"].split()]
    ticks = {text.text: float(text.attrib["x"]) for text in chart.iter("text") if "class" not in text.attrib}
    grid = [float(path.attrib["d"].split()[1].partition("H")[0]) for path in chart.iter("path")]
    assert [across for across, _ in points] == [ticks["512"], (ticks["512"] + ticks["16k"]) / 2, ticks["16k"]]
    assert [up for _, up in points] == [grid[0], (grid[0] + grid[-1]) / 2, grid[-1]]
    _, _, width, height = map(float, chart.attrib["viewBox"].split())
    assert all(0 < across < width and 0 < up < height for across, up in points)


def test_one_value_is_a_dot_in_the_middle() -> None:
    chart = drawn(Line("ours", ((9, 5),)), x=Axis(9, 9, ()), y=Axis(5, 5, ()))
    (dot,) = chart.iter("circle")
    _, _, width, _ = map(float, chart.attrib["viewBox"].split())
    assert width / 3 < float(dot.attrib["cx"]) < width * 2 / 3


def test_a_chart_has_words_for_those_who_do_not_see_it_and_escapes_them() -> None:
    x = Axis(0, 1, ((0, "1.0 <b>"), (1, "2.0")))
    chart = drawn(Line("ours", ((0, 1), (1, 2))), x=x, y=axis_to(2), label='speed "by" <release> & more')
    assert (chart.attrib["role"], chart.attrib["aria-label"]) == ("img", 'speed "by" <release> & more')
    assert "1.0 <b>" in [text.text for text in chart.iter("text")]
