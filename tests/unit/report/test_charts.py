from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safa.report.charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    MOST_POINTS,
    RIGHT,
    TOP,
    WIDTH,
    Line,
    bins,
    histogram,
    line_chart,
    number,
    training_charts,
)


def points_of(points: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in (pair.split(",") for pair in points.split())]


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=600))
def test_lines_and_marks_stay_inside_the_drawing(values: list[float]) -> None:
    chart = line_chart("x", [Line("", tuple(enumerate(values)))])
    assert chart is not None
    assert len(points_of(chart.paths[0].points)) <= MOST_POINTS
    for x, y in points_of(chart.paths[0].points):
        assert LEFT - 0.1 <= x <= WIDTH - RIGHT + 0.1
        assert TOP - 0.1 <= y <= HEIGHT - BOTTOM + 0.1
    assert all(TOP - 0.1 <= tick.at <= HEIGHT - BOTTOM + 0.1 for tick in chart.y_ticks)
    assert all(LEFT - 0.1 <= tick.at <= WIDTH - RIGHT + 0.1 for tick in chart.x_ticks)


def test_more_is_higher_up_and_later_is_further_right() -> None:
    chart = line_chart("x", [Line("", ((0, 1.0), (10, 2.0)))])
    assert chart is not None
    assert points_of(chart.paths[0].points) == [(LEFT, HEIGHT - BOTTOM), (WIDTH - RIGHT, TOP)]


def test_a_wide_range_is_drawn_logarithmically() -> None:
    chart = line_chart("x", [Line("", ((0, 100.0), (1, 10.0), (2, 1.0)))])
    assert chart is not None
    middle = points_of(chart.paths[0].points)[1]
    assert middle[1] == pytest.approx((TOP + HEIGHT - BOTTOM) / 2)
    assert [tick.label for tick in chart.y_ticks] == ["1", "10", "100"]


def test_marks_are_round_numbers() -> None:
    chart = line_chart("x", [Line("", ((0, 0.0), (900, 1.0)))])
    assert chart is not None
    assert [tick.label for tick in chart.y_ticks] == ["0", "0.5", "1"]
    assert [tick.label for tick in chart.x_ticks] == ["0", "500"]


def test_what_is_not_finite_is_left_out() -> None:
    chart = line_chart("x", [Line("", ((0, 1.0), (1, math.nan), (2, math.inf), (3, 2.0)))])
    assert chart is not None
    assert len(points_of(chart.paths[0].points)) == 2
    assert line_chart("x", [Line("", ((0, math.nan),)), Line("copy", ())]) is None


def test_a_long_run_is_averaged_down() -> None:
    chart = line_chart("x", [Line("", tuple((i, float(i % 2)) for i in range(2 * MOST_POINTS)))])
    assert chart is not None
    assert {y for _, y in points_of(chart.paths[0].points)} == {(TOP + HEIGHT - BOTTOM) / 2}


def test_scores_come_with_their_baseline() -> None:
    records = [
        {"kind": "train", "step": 1, "losses": {"gan": 2.0}},
        {"kind": "validate", "step": 1, "scores": {"psnr": 20.0, "psnr_copy": 18.0}},
        {"kind": "validate", "step": 2, "scores": {"psnr": 21.0, "psnr_copy": 18.0}},
    ]
    charts = training_charts(records, "_copy")
    assert [chart.title for chart in charts] == ["Held out: PSNR", "gan"]
    assert [path.baseline for path in charts[0].paths] == [False, True]
    assert charts[0].paths[0].last_value == "21"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.1234, "0.123"), (12.345, "12.3"), (1234.5, "1234"), (0.00012, "1.2e-04"), (-2.5, "-2.5")],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert number(value) == text


def test_nothing_logged_draws_nothing() -> None:
    assert training_charts([], "_copy") == ()


@pytest.mark.parametrize("values", [[1.0], [2.0, 2.0], list(range(100)), [0.0, 0.1, 0.2, 0.3]])
def test_bins_hold_every_value(values: list[float]) -> None:
    filled = bins(values, min(values), max(values), 12)
    assert len(filled) == 12
    assert sum(item.count for item in filled) == len(values)
    assert all(item.high == following.low for item, following in pairwise(filled))


def test_a_histogram_has_bars_of_both_sides_on_one_scale() -> None:
    chart = histogram("x", model=[1.0, 1.0, math.nan, 3.0], baseline=[2.0])
    assert chart is not None
    model, baseline = ([bar for bar in chart.bars if bar.baseline == side] for side in (False, True))
    assert len(baseline) == 1
    assert model[0].height == pytest.approx(2 * model[1].height)
    assert model[0].x < baseline[0].x < model[1].x
    assert histogram("x", [math.nan], []) is None
