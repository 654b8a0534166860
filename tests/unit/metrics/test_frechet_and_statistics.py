"""FID, bootstrap intervals, points and identities."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from safa.metrics import (
    METRICS,
    akd,
    bootstrap_interval,
    cosine,
    detected,
    euclidean,
    overall_score,
    statistics,
)
from safa.metrics.frechet import FeatureSums, frechet_distance
from safa.metrics.statistics import MOST_RESAMPLED


def features(count: int, size: int = 8, shift: float = 0.0, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(shift, 1, (count, size)) @ np.random.default_rng(9).normal(0, 1, (size, size))


def sums(values: np.ndarray) -> FeatureSums:
    result = FeatureSums(values.shape[1])
    result.add(values)
    return result


def naive_fid(first: np.ndarray, second: np.ndarray) -> float:
    covariances = [np.cov(values, rowvar=False) for values in (first, second)]
    root = sqrtm(covariances[0] @ covariances[1]).real
    shift = first.mean(0) - second.mean(0)
    return float(shift @ shift + np.trace(covariances[0] + covariances[1] - 2 * root))


def test_fid_against_numpy_and_scipy() -> None:
    first, second = features(60), features(45, shift=0.5, seed=1)
    assert frechet_distance(sums(first), sums(second)) == pytest.approx(naive_fid(first, second), rel=1e-8)


def test_fid_of_a_set_with_itself_is_zero_even_with_few_images() -> None:
    few = features(5)  # fewer than dimensions: the covariance is singular
    assert frechet_distance(sums(few), sums(few)) == pytest.approx(0, abs=1e-6)


def test_fid_of_shifted_copies_is_the_shift_squared() -> None:
    values = features(50)
    assert frechet_distance(sums(values), sums(values + 2.0)) == pytest.approx(8 * 4.0, rel=1e-6)


def test_merged_sums_are_those_of_the_whole() -> None:
    values = features(90)
    parts = [sums(part) for part in np.array_split(values, [7, 40])]
    for part in parts[1:]:
        parts[0].merge(part)
    whole = sums(values)
    assert parts[0].count == whole.count
    np.testing.assert_allclose(parts[0].covariance, whole.covariance, atol=1e-12)
    repeated = FeatureSums(8)
    repeated.add(values[:1], times=3)
    repeated.add(values[1:])
    np.testing.assert_allclose(
        repeated.covariance, np.cov(np.vstack([values[:1], values[:1], values]), rowvar=False), atol=1e-9
    )


def test_a_covariance_needs_two_images() -> None:
    with pytest.raises(ValueError, match="at least two"):
        frechet_distance(sums(features(1)), sums(features(5)))


def test_interval_of_a_mean_is_that_of_statistics() -> None:
    """For many normal clips the percentile bootstrap is mean +- 1.96 standard errors."""
    clips = np.random.default_rng(3).normal(20, 2, 400)
    interval = bootstrap_interval(clips)
    error = clips.std() / math.sqrt(len(clips))
    assert interval.low == pytest.approx(clips.mean() - 1.96 * error, abs=0.15 * error)
    assert interval.high == pytest.approx(clips.mean() + 1.96 * error, abs=0.15 * error)


def test_an_interval_does_not_depend_on_order_and_skips_unknown_clips() -> None:
    clips = np.random.default_rng(0).normal(0, 1, 30)
    interval = bootstrap_interval(clips)
    assert bootstrap_interval(clips[::-1]) == interval
    assert bootstrap_interval(np.append(clips, math.nan)) == interval
    assert interval.low < overall_score(clips) < interval.high


def test_of_one_clip_there_is_no_interval() -> None:
    assert not bootstrap_interval(np.array([1.0, math.nan])).known
    equal = bootstrap_interval(np.array([2.0, 2.0]))
    assert (equal.low, equal.high) == (2.0, 2.0)


def test_akd_is_in_pixels_of_256_and_averages_x_and_y() -> None:
    points = torch.rand(2, 68, 2) * 64
    moved = points + torch.tensor([3.0, -1.0])
    torch.testing.assert_close(
        akd(moved, points, 64), torch.full((2,), 8.0, dtype=torch.float64), rtol=1e-5, atol=0
    )
    torch.testing.assert_close(
        akd(moved, points, 256), torch.full((2,), 2.0, dtype=torch.float64), rtol=1e-5, atol=0
    )


def test_an_undetected_face_has_no_akd_but_lowers_the_rate() -> None:
    points = torch.rand(3, 68, 2)
    lost = points.clone()
    lost[1, 5] = math.nan
    scores = akd(lost, points, 256)
    assert scores[0] == 0
    assert math.isnan(scores[1])
    assert detected(lost, points).tolist() == [1.0, 0.0, 1.0]
    assert detected(points, lost[1:2]).tolist() == [0.0] * 3


def test_identity_scores_of_known_vectors() -> None:
    a, b = torch.tensor([[3.0, 0.0], [0.0, 2.0]]), torch.tensor([[0.0, 4.0]])
    assert euclidean(a, b).tolist() == [5.0, 2.0]
    assert cosine(a, b).tolist() == [0.0, 1.0]
    assert cosine(a * 7, b).tolist() == [0.0, 1.0]  # length does not count


def test_every_metric_says_range_and_direction() -> None:
    for metric in METRICS:
        assert metric.direction in metric.definition, metric
        assert "Args" not in metric.definition
    assert len({metric.key for metric in METRICS}) == len(METRICS)


def test_the_interval_of_very_many_clips_is_that_of_resampling(monkeypatch: pytest.MonkeyPatch) -> None:
    clips = np.random.default_rng(0).gamma(2.0, 3.0, MOST_RESAMPLED + 1)
    fast = bootstrap_interval(clips)
    monkeypatch.setattr(statistics, "MOST_RESAMPLED", len(clips))
    drawn = bootstrap_interval(clips)
    assert fast != drawn
    width = drawn.high - drawn.low
    assert (fast.low, fast.high) == pytest.approx((drawn.low, drawn.high), abs=0.1 * width)
