"""From the scores of frames to one number, and how certain it is.

``clip_score`` is the mean over a clip's frames, ``overall_score`` the mean over clips, so that a long clip
weighs as much as a short one. NaN marks a frame or clip that has no such number and is left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]

CONFIDENCE = 0.95
RESAMPLES = 2000
MOST_RESAMPLED = 5000  # clips; with more of them the mean of a resample is normal
SEED = 0
_DRAWN_AT_ONCE = 2**20  # clips, so that all resamples together need not fit into memory


@dataclass(frozen=True)
class Interval:
    """A confidence interval; both ends are NaN where there are fewer than two clips."""

    low: float
    high: float

    @property
    def known(self) -> bool:
        """Whether there is an interval."""
        return math.isfinite(self.low)

    def holds(self, value: float) -> bool:
        """Whether the value lies between the ends."""
        return self.low <= value <= self.high


def clip_score(frames: Scores) -> float:
    """Return the mean over a clip's frames (F,); NaN if no frame has a number."""
    return _mean_of_known(frames)


def overall_score(clips: Scores) -> float:
    """Return the mean over clips (C,) of their ``clip_score``; NaN if no clip has one."""
    return _mean_of_known(clips)


def bootstrap_interval(clips: Scores) -> Interval:
    """Return the 95 % interval of ``overall_score``: percentile bootstrap over clips, 2000 resamples.

    Clips are drawn with replacement, as many as there are; the interval holds the middle 95 % of their means.
    It says how much the number would move with other clips of the same kind, not with another training run.
    With more than ``MOST_RESAMPLED`` clips it is what resampling converges to (central limit theorem): the
    mean, and 1.96 standard errors to both sides.
    """
    known = np.sort(clips[np.isfinite(clips)])  # sorted: the order in which clips came must not matter
    if len(known) < 2:
        return Interval(math.nan, math.nan)
    if len(known) > MOST_RESAMPLED:
        reach = NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * float(known.std()) / math.sqrt(len(known))
        return Interval(float(known.mean()) - reach, float(known.mean()) + reach)
    rng = np.random.default_rng(SEED)
    rows = max(1, _DRAWN_AT_ONCE // len(known))
    means = [
        known[rng.integers(len(known), size=(min(rows, RESAMPLES - start), len(known)))].mean(axis=1)
        for start in range(0, RESAMPLES, rows)
    ]
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(np.concatenate(means), [tail, 100 - tail])
    return Interval(float(low), float(high))


def _mean_of_known(values: Scores) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else float("nan")
