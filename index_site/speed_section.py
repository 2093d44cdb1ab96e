"""The page's section on speed: a chart for each head dimension and mask, its table, and its words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from index_site.charts import Axis, Line, axis_to, line_chart
from index_site.projects import PROJECT
from index_site.speeds import OURS, PEERS, release_speeds, speed_history

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from markupsafe import Markup

    from index_site.manifest import Manifest, Wheel
    from index_site.proofs import Proof
    from index_site.speeds import Comparison, DirectionSpeeds, History, Panel, Speeds

_TITLES = {OURS: PROJECT, **PEERS}


@dataclass(frozen=True)
class Chart:
    """A chart, its caption and a line below it, and the table of its figures."""

    title: str
    note: str
    svg: Markup
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class DirectionCharts:
    """The forward or the backward.

    Attributes:
        direction: which of them.
        comparisons: with each other implementation over all cells.
        charts: one for each dtype, head dimension and mask.
    """

    direction: str
    comparisons: tuple[Comparison, ...]
    charts: tuple[Chart, ...]


@dataclass(frozen=True)
class GpuSpeed:
    """All that the page says of the speed on one GPU.

    Attributes:
        proof: the report.
        legend: class of the stroke and title of each implementation.
        directions: those with a cell.
        history: the releases compared; None with fewer than two.
    """

    proof: Proof
    legend: tuple[tuple[str, str], ...]
    directions: tuple[DirectionCharts, ...]
    history: Chart | None


def gpu_speeds(manifest: Manifest, release: Sequence[Wheel]) -> tuple[GpuSpeed, ...]:
    """Return the speed of a release on each GPU that validated it."""
    return tuple(
        _gpu_speed(speeds, speed_history(manifest, speeds.proof.gpu, release[0].channel))
        for speeds in release_speeds(release)
        if speeds.directions
    )


def _gpu_speed(speeds: Speeds, history: History | None) -> GpuSpeed:
    panels = [panel for each in speeds.directions for panel in each.panels]
    present = {name for panel in panels for name in panel.speeds}
    return GpuSpeed(
        speeds.proof,
        tuple((name, title) for name, title in _TITLES.items() if name in present),
        tuple(_direction_charts(each) for each in speeds.directions),
        None if history is None else _history_chart(history),
    )


def _direction_charts(speeds: DirectionSpeeds) -> DirectionCharts:
    seqlens = sorted({seqlen for panel in speeds.panels for seqlen in panel.seqlens})
    fastest = max(max(line.values()) for panel in speeds.panels for line in panel.speeds.values())
    x = Axis(math.log2(seqlens[0]), math.log2(seqlens[-1]), ())
    charts = tuple(_panel_chart(speeds.direction, panel, x, axis_to(fastest)) for panel in speeds.panels)
    return DirectionCharts(speeds.direction, speeds.comparisons, charts)


def _panel_chart(direction: str, panel: Panel, x: Axis, y: Axis) -> Chart:
    ticks = tuple((math.log2(seqlen), _tokens(seqlen)) for seqlen in panel.seqlens)
    lines = [
        Line(name, tuple((math.log2(seqlen), speed) for seqlen, speed in panel.speeds[name].items()))
        for name in reversed(_TITLES)
        if name in panel.speeds
    ]
    title = f"{panel.dtype}, head_dim {panel.head_dim}, {panel.mask}"
    if direction == "backward":
        title = f"backward, {title}"
    names = [name for name in _TITLES if name in panel.speeds]
    ranges = (f"{_TITLES[name]} {_range(panel.speeds[name])}" for name in names)
    label = f"TFLOP/s by tokens, {title}: {'; '.join(ranges)}"
    return Chart(
        title,
        ", ".join(f"{item.mean:.2f} \N{MULTIPLICATION SIGN} {item.other}" for item in panel.comparisons[:2]),
        line_chart(lines, Axis(x.low, x.high, ticks), y, label=label),
        ("tokens", *(_TITLES[name] for name in names)),
        tuple(
            (str(seqlen), *(_cell(panel.speeds[name], seqlen) for name in names)) for seqlen in panel.seqlens
        ),
    )


def _history_chart(history: History) -> Chart:
    means = [mean for _, mean in history.means]
    points = tuple((float(number), mean) for number, mean in enumerate(means))
    ticks = tuple((float(number), version) for number, (version, _) in enumerate(history.means))
    shown = (ticks[0], ticks[-1])  # the labels of more would touch
    y = axis_to(max(*means, 1.0), min(*means, 1.0))
    title = "Speed relative to cuDNN by release"
    note = f"geometric mean of the {history.count} cells that every report has, {history.gpu}"
    label = f"{title}: " + "; ".join(f"{version} {mean:.2f}" for version, mean in history.means)
    svg = line_chart([Line(OURS, points)], Axis(0, len(points) - 1, shown), y, label=label)
    rows = tuple((version, f"{mean:.2f}") for version, mean in history.means)
    return Chart(title, note, svg, ("release", "\N{MULTIPLICATION SIGN} cuDNN"), rows)


def _tokens(seqlen: int) -> str:
    return f"{seqlen // 1024}k" if seqlen % 1024 == 0 else str(seqlen)


def _range(speeds: Mapping[int, float]) -> str:
    return f"{min(speeds.values()):.0f} to {max(speeds.values()):.0f}"


def _cell(speeds: Mapping[int, float], seqlen: int) -> str:
    return f"{speeds[seqlen]:.0f}" if seqlen in speeds else "\N{EM DASH}"
