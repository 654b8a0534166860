"""Whether the face moves as the driving face does: one correlation and one gain per clip and movement.

Three movements are measured in each frame, from the 68 landmarks (iBUG numbers from 0) that a detector finds,
as shares of the inter-ocular distance of the same face (points 36 and 45): the opening of the mouth (62 to
66), its width (48 to 54), and the opening of the eyes (37 to 41, 38 to 40, 43 to 47, 44 to 46, averaged).
"""

from __future__ import annotations

import math
from typing import Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from safa.metrics.landmarks import OUTER_EYE_CORNERS

MOVEMENTS: dict[str, tuple[tuple[int, int], ...]] = {
    "mouth_opening": ((62, 66),),
    "mouth_width": ((48, 54),),
    "eye_opening": ((37, 41), (38, 40), (43, 47), (44, 46)),
}
MIN_FRAMES = 10  # with both faces; fewer say nothing
LEAST_SPREAD = 0.005  # of the driving movement, in inter-ocular distances: a detector's noise is as large


class ExpressionSums:
    """Sums over the frames of a clip, from which its correlations and gains follow."""

    def __init__(self) -> None:
        self._count = 0
        self._sums = np.zeros((5, len(MOVEMENTS)))  # of p, t, pp, tt, pt

    def add(self, prediction: Tensor, target: Tensor) -> None:
        """Add frames: landmarks (F, 68, 2) of predictions and driving frames; NaN without a face."""
        p, t = movements(prediction), movements(target)
        known = np.isfinite(p).all(axis=1) & np.isfinite(t).all(axis=1)
        p, t = p[known], t[known]
        self._count += len(p)
        self._sums += [p.sum(0), t.sum(0), (p * p).sum(0), (t * t).sum(0), (p * t).sum(0)]

    @property
    def state(self) -> NDArray[np.float64]:
        """All sums as one array (16,); those of the parts of a clip add up to those of the clip."""
        return np.concatenate([[self._count], self._sums.ravel()])

    @classmethod
    def of(cls, state: NDArray[np.float64]) -> Self:
        """The sums whose ``state`` this is."""
        sums = cls()
        sums._count, sums._sums = int(state[0]), state[1:].reshape(5, len(MOVEMENTS))  # (15,) -> (5, 3)
        return sums

    def scores(self) -> dict[str, float]:
        """Return ``<movement>_correlation`` and ``<movement>_gain`` of each; NaN where there is none."""
        scores = {}
        for index, name in enumerate(MOVEMENTS):
            prediction, target, both = self._moments(index)
            moves = self._moves(index)
            scores[f"{name}_correlation"] = correlation(prediction, target, both) if moves else math.nan
            scores[f"{name}_gain"] = gain(prediction, target) if moves else math.nan
        return scores

    def _moves(self, index: int) -> bool:
        return self._count >= MIN_FRAMES and self._moments(index)[1] >= LEAST_SPREAD**2

    def _moments(self, index: int) -> tuple[float, float, float]:
        """Variance of the prediction, variance of the driving movement, and covariance."""
        p, t, pp, tt, pt = self._sums[:, index] / max(1, self._count)
        return max(0.0, pp - p * p), max(0.0, tt - t * t), pt - p * t


def movements(points: Tensor) -> NDArray[np.float64]:
    """Return the three movements (F, 3) of landmarks (F, 68, 2), in inter-ocular distances."""
    faces = points.detach().double().cpu().numpy()
    left, right = (faces[:, corner] for corner in OUTER_EYE_CORNERS)
    scale = np.linalg.norm(left - right, axis=1)  # (F, 2) -> (F,)
    distances = [
        np.mean([np.linalg.norm(faces[:, a] - faces[:, b], axis=1) for a, b in pairs], axis=0)
        for pairs in MOVEMENTS.values()
    ]
    with np.errstate(divide="ignore", invalid="ignore"):
        shares: NDArray[np.float64] = np.stack(distances, axis=1) / scale[:, None]  # (F, 3)
    return shares


def correlation(prediction: float, target: float, both: float) -> float:
    """Correlation of a movement in prediction and driving frames: -1 to 1, higher is better. No unit.

    Pearson's, over the frames of a clip in which the scoring detector finds both faces: at least 10, and the
    driving movement spreads by at least 0.5 % of the inter-ocular distance. Copying the source has none.

    Args:
        prediction, target: variances of the movement.
        both: their covariance.
    """
    return both / math.sqrt(prediction * target) if prediction > 0 else math.nan


def gain(prediction: float, target: float) -> float:
    """Gain of a movement: its standard deviation in the predictions over that in the driving frames.

    0 (the face is still) upwards; nearer to 1 is better. No unit. Over the same frames as the correlation.
    Noise of the detector in the predictions adds to it: read it with the correlation.

    Args:
        prediction, target: variances of the movement.
    """
    return math.sqrt(prediction / target)
