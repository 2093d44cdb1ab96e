"""Line charts as inline SVG. Colours and strokes are classes of the page's style, for dark and light."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup

if TYPE_CHECKING:
    from collections.abc import Sequence

_WIDTH, _HEIGHT = 344, 168
_LEFT, _RIGHT, _TOP, _BOTTOM = 34, 332, 8, 144
"""The plot's edges; the numbers of the axes stand outside it."""
_INSET = 12
"""Room at both ends of the horizontal axis for half of a label."""
_MOST_INTERVALS = 4
_STEPS = (1, 2, 2.5, 5, 10)

Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """One line of a chart; ``name`` is the class of its stroke."""

    name: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Axis:
    """The range of an axis, and its ticks with their labels."""

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]


def axis_to(high: float, low: float = 0) -> Axis:
    """Return an axis with round ticks that holds ``low`` and ``high``."""
    rough = (high - low) / _MOST_INTERVALS or 1
    unit = 10 ** math.floor(math.log10(rough))
    step = next(step * unit for step in _STEPS if step * unit >= rough * (1 - 1e-9))
    first = math.floor(low / step)
    ticks = [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]
    return Axis(first * step, high, tuple((tick, f"{tick:g}") for tick in ticks))


def line_chart(lines: Sequence[Line], x: Axis, y: Axis, *, label: str) -> Markup:
    """Return the chart as one ``svg`` element.

    Args:
        lines: those given first are drawn below the others.
        x: the horizontal axis.
        y: the vertical axis.
        label: what a screen reader says in place of the chart.
    """
    parts = [Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">').format(_WIDTH, _HEIGHT, label)]
    for value, text in y.ticks:
        height = _number(_y(y, value))
        parts.append(Markup('<path class="grid" d="M{} {}H{}"/>').format(_LEFT, height, _RIGHT))
        parts.append(
            Markup('<text class="y" x="{}" y="{}">{}</text>').format(
                _LEFT - 6, _number(float(height) + 4), text
            )
        )
    for value, text in x.ticks:
        across = _number(_x(x, value))
        parts.append(Markup('<text x="{}" y="{}">{}</text>').format(across, _BOTTOM + 18, text))
    dot = Markup('<circle class="{}" cx="{}" cy="{}" r="2"/>')
    for line in lines:
        points = [(_number(_x(x, across)), _number(_y(y, up))) for across, up in line.points]
        path = " ".join(f"{across},{up}" for across, up in points)
        parts.append(Markup('<polyline class="{}" points="{}"/>').format(line.name, path))
        parts += [dot.format(line.name, *point) for point in points]
    return Markup("").join([*parts, Markup("</svg>")])


def _x(axis: Axis, value: float) -> float:
    return _LEFT + _INSET + _share(axis, value) * (_RIGHT - _LEFT - 2 * _INSET)


def _y(axis: Axis, value: float) -> float:
    return _BOTTOM - _share(axis, value) * (_BOTTOM - _TOP)


def _share(axis: Axis, value: float) -> float:
    return (value - axis.low) / (axis.high - axis.low) if axis.high > axis.low else 0.5


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
