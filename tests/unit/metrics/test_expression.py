"""Correlation and gain of movements: known ones, and what says nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from safa.metrics.expression import LEAST_SPREAD, MIN_FRAMES, MOVEMENTS, ExpressionSums, movements


def faces(mouth: np.ndarray, size: float = 60.0) -> torch.Tensor:
    """Faces (F, 68, 2) with an inter-ocular distance ``size`` whose mouths open by these shares of it."""
    points = np.zeros((len(mouth), 68, 2))
    points[:, 45, 0] = size
    points[:, 66, 1] = size * mouth
    points[:, 54, 0] = size * 0.6  # as wide in all frames
    return torch.from_numpy(points)


MOUTH = 0.1 + 0.05 * np.sin(np.arange(40))


def scores(prediction: torch.Tensor, target: torch.Tensor, batch: int = 7) -> dict[str, float]:
    sums = ExpressionSums()
    for start in range(0, len(target), batch):
        sums.add(prediction[start : start + batch], target[start : start + batch])
    return sums.scores()


def test_movements_are_shares_of_the_inter_ocular_distance() -> None:
    found = movements(faces(np.array([0.2]), size=37.0))
    assert list(MOVEMENTS) == ["mouth_opening", "mouth_width", "eye_opening"]
    assert found[0] == pytest.approx([0.2, 0.6, 0.0])


def test_half_the_movement_has_half_the_gain_at_any_size() -> None:
    found = scores(faces(0.5 * MOUTH + 0.3, size=11.0), faces(MOUTH))
    assert found["mouth_opening_correlation"] == pytest.approx(1)
    assert found["mouth_opening_gain"] == pytest.approx(0.5)
    against = scores(faces(0.3 - MOUTH), faces(MOUTH))
    assert against["mouth_opening_correlation"] == pytest.approx(-1)
    assert against["mouth_opening_gain"] == pytest.approx(1)


def test_noise_is_as_numpy_says() -> None:
    noisy = MOUTH + np.random.default_rng(0).normal(0, 0.03, 40)
    found = scores(faces(noisy), faces(MOUTH))
    assert found["mouth_opening_correlation"] == pytest.approx(np.corrcoef(noisy, MOUTH)[0, 1])
    assert found["mouth_opening_gain"] == pytest.approx(noisy.std() / MOUTH.std())


def test_a_still_prediction_has_no_gain_and_no_correlation() -> None:
    found = scores(faces(np.full(40, 0.2)), faces(MOUTH))
    assert found["mouth_opening_gain"] == pytest.approx(0, abs=1e-6)
    assert not found["mouth_opening_correlation"] > 0.1


def test_where_nothing_can_be_said() -> None:
    assert math.isnan(scores(faces(MOUTH), faces(MOUTH))["mouth_width_gain"])  # nobody moves it
    still = 0.1 + LEAST_SPREAD / 2 * np.sin(np.arange(40))
    assert math.isnan(scores(faces(MOUTH), faces(still))["mouth_opening_gain"])
    unseen = faces(MOUTH)
    unseen[MIN_FRAMES:] = math.nan  # no face
    assert scores(unseen, faces(MOUTH))["mouth_opening_gain"] == pytest.approx(1)
    unseen[0] = math.nan
    assert math.isnan(scores(unseen, faces(MOUTH))["mouth_opening_gain"])
