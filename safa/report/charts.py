"""Charts and histograms laid out for SVG: numbers become positions; the template draws them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from safa.batching import batched
from safa.metrics import METRICS
from safa.report.loss_terms import note_on_rise, plain_name

WIDTH, HEIGHT = 300, 170  # units of the drawing
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 8, 22  # margins, in these units
MOST_POINTS = 240  # of a line; longer ones are averaged down
TICKS = 4  # of an axis, about
BINS = 20  # of a histogram
LOG_RANGE = 10.0  # values that span more than this factor are drawn on a logarithmic axis

Point = tuple[float, float]  # step and value, or x and y of the drawing


@dataclass(frozen=True)
class Line:
    """Values over steps; a baseline is drawn dashed."""

    label: str
    points: tuple[Point, ...]
    baseline: bool = False


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: its position in the drawing, and its label."""

    at: float
    label: str


@dataclass(frozen=True)
class Path:
    """A line in the drawing's units; ``points`` are those of an SVG polyline."""

    label: str
    points: str
    last: Point
    last_value: str
    baseline: bool


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A title and axes on WIDTH x HEIGHT units; ``left``, ``right`` and ``bottom`` are the plot's edges."""

    title: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    bottom: int = HEIGHT - BOTTOM


@dataclass(frozen=True, kw_only=True)
class Chart(Drawing):
    """Lines over a common axis.

    Attributes:
        key: the name in the log; empty if the title says it.
        note: what has to be said about the lines; may be empty.
    """

    paths: tuple[Path, ...]
    key: str = ""
    note: str = ""


def line_chart(title: str, lines: Sequence[Line], key: str = "", note: str = "") -> Chart | None:
    """Lay out lines over a common axis; return None if there is nothing to draw."""
    drawn = [Line(line.label, _thinned(_finite(line.points)), line.baseline) for line in lines]
    drawn = [line for line in drawn if line.points]
    if not drawn:
        return None
    steps = [x for line in drawn for x, _ in line.points]
    values = [y for line in drawn for _, y in line.points]
    logarithmic = min(values) > 0 and max(values) / min(values) > LOG_RANGE
    x_axis = _Axis(min(steps), max(steps), LEFT, WIDTH - RIGHT)
    y_axis = _Axis(min(values), max(values), HEIGHT - BOTTOM, TOP, logarithmic=logarithmic)

    def path(line: Line) -> Path:
        positions = [(x_axis.position(x), y_axis.position(y)) for x, y in line.points]
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in positions)
        return Path(line.label, points, positions[-1], number(line.points[-1][1]), line.baseline)

    whole_steps = tuple(tick for tick in x_axis.ticks() if "." not in tick.label)
    paths = tuple(path(line) for line in drawn)
    return Chart(title=title, paths=paths, x_ticks=whole_steps, y_ticks=y_axis.ticks(), key=key, note=note)


@dataclass(frozen=True)
class Bin:
    """How many values lie between ``low`` and ``high``."""

    low: float
    high: float
    count: int


def bins(values: Sequence[float], low: float, high: float, number_of_bins: int) -> tuple[Bin, ...]:
    """Count finite values in equal bins from ``low`` to ``high``; the last bin includes ``high``."""
    counts, edges = np.histogram(values, bins=number_of_bins, range=(low, high))
    return tuple(
        Bin(float(left), float(right), int(count))
        for count, left, right in zip(counts, edges[:-1], edges[1:], strict=True)
    )


@dataclass(frozen=True)
class Bar:
    """A bar of a histogram in the drawing's units."""

    x: float
    y: float
    width: float
    height: float
    baseline: bool


@dataclass(frozen=True, kw_only=True)
class Histogram(Drawing):
    """How values are distributed."""

    bars: tuple[Bar, ...]


def histogram(title: str, model: Sequence[float], baseline: Sequence[float]) -> Histogram | None:
    """Lay out counts over a common axis, the baseline behind the model; None if there is nothing to draw."""
    sides = [[value for value in side if math.isfinite(value)] for side in (baseline, model)]
    values = [value for side in sides for value in side]
    if not values:
        return None
    low, high = min(values), max(values)
    if low == high:
        low, high = low - 0.5, high + 0.5
    counts = [[item.count for item in bins(side, low, high, BINS)] for side in sides]
    x_axis = _Axis(low, high, LEFT, WIDTH - RIGHT)
    y_axis = _Axis(0, max(map(max, counts)), HEIGHT - BOTTOM, TOP)
    width, bottom = (WIDTH - RIGHT - LEFT) / BINS, y_axis.position(0)
    bars = [
        Bar(
            LEFT + index * width + 0.5,
            y_axis.position(count),
            width - 1,
            bottom - y_axis.position(count),
            number == 0,
        )
        for number, side in enumerate(counts)
        for index, count in enumerate(side)
        if count
    ]
    whole = tuple(tick for tick in y_axis.ticks() if "." not in tick.label)
    return Histogram(title=title, bars=tuple(bars), x_ticks=x_axis.ticks(), y_ticks=whole)


def training_charts(records: Sequence[Mapping[str, Any]], baseline_suffix: str) -> tuple[Chart, ...]:
    """Lay out one chart for each held-out score with its baseline, and one for each loss term.

    Args:
        records: rows of ``metrics.jsonl``.
        baseline_suffix: a score whose key ends in this is the baseline of the score without it.
    """
    labels = {metric.key: metric.label for metric in METRICS}
    losses = _series(records, "train", "losses")
    scores = _series(records, "validate", "scores")
    charts = [
        line_chart(
            f"Held out: {labels.get(name, name)}",
            [Line("model", points), Line("copy", scores.get(name + baseline_suffix, ()), baseline=True)],
            name,
        )
        for name, points in scores.items()
        if not name.endswith(baseline_suffix)
    ]
    charts += [
        line_chart(
            plain_name(name),
            [Line("", points)],
            name,
            note_on_rise(name, [value for _, value in _finite(points)]),
        )
        for name, points in losses.items()
    ]
    return tuple(chart for chart in charts if chart is not None)


def number(value: float) -> str:
    """Format three significant digits, without an exponent where a person would write none."""
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    mantissa, _, power = f"{value:.2e}".partition("e")
    return f"{float(mantissa):g}e{power}"


class _Axis:
    """Maps values to positions, and places round marks between the ends."""

    def __init__(
        self, low: float, high: float, first: float, last: float, *, logarithmic: bool = False
    ) -> None:
        self._log = logarithmic
        self._low, self._high = self._scaled(low), self._scaled(high)
        if self._high == self._low:  # a constant line runs through the middle
            self._low, self._high = self._low - 0.5, self._high + 0.5
        self._first, self._last = first, last

    def position(self, value: float) -> float:
        share = (self._scaled(value) - self._low) / (self._high - self._low)
        return self._first + share * (self._last - self._first)

    def ticks(self) -> tuple[Tick, ...]:
        values = [10**power for power in self._powers()] if self._log else self._round_values()
        return tuple(Tick(self.position(value), number(value)) for value in values)

    def _scaled(self, value: float) -> float:
        return math.log10(value) if self._log else value

    def _round_values(self) -> list[float]:
        raw = (self._high - self._low) / TICKS
        unit = 10 ** math.floor(math.log10(raw))
        step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= raw)
        first, last = math.ceil(self._low / step), math.floor(self._high / step)
        return [index * step for index in range(first, last + 1)]

    def _powers(self) -> list[float]:
        whole = [float(power) for power in range(math.ceil(self._low), math.floor(self._high) + 1)]
        return whole if len(whole) > 1 else [self._low, self._high]


def _series(records: Sequence[Mapping[str, Any]], kind: str, field: str) -> dict[str, tuple[Point, ...]]:
    series: dict[str, list[Point]] = {}
    for row in records:
        if row["kind"] == kind:
            for name, value in row[field].items():
                series.setdefault(name, []).append((row["step"], value))
    return {name: tuple(points) for name, points in series.items()}


def _finite(points: Sequence[Point]) -> tuple[Point, ...]:
    return tuple(point for point in points if math.isfinite(point[1]))


def _thinned(points: tuple[Point, ...]) -> tuple[Point, ...]:
    """Average equal groups of neighbours, so that a long run is drawn as fast as a short one."""
    group = -(-len(points) // MOST_POINTS)
    if group <= 1:
        return points
    groups = batched(points, group)
    return tuple((sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups)
