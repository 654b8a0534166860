"""Fréchet distance between two sets of images, from sums of features that can be merged."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class FeatureSums:
    """Sums of features (N, D) in float64: their number, their sum and the sum of their outer products.

    The sums of the parts of a set, merged, are those of the set, so no worker needs to see all of it.
    """

    def __init__(self, size: int) -> None:
        self.count = 0
        self._sum: Array = np.zeros(size)
        self._outer: Array = np.zeros((size, size))

    def add(self, features: NDArray[np.floating], times: int = 1) -> None:
        """Add features (N, D), each ``times`` times."""
        values = features.astype(np.float64)
        self.count += times * len(values)
        self._sum += times * values.sum(axis=0)
        self._outer += times * (values.T @ values)

    def merge(self, other: FeatureSums) -> None:
        """Add the sums of another part."""
        self.count += other.count
        self._sum += other._sum
        self._outer += other._outer

    @property
    def mean(self) -> Array:
        """The mean (D,)."""
        return self._sum / self.count

    @property
    def covariance(self) -> Array:
        """The covariance (D, D), divided by N - 1."""
        mean = self.mean
        spread: Array = (self._outer - self.count * np.outer(mean, mean)) / (self.count - 1)
        return spread


def frechet_distance(prediction: FeatureSums, target: FeatureSums) -> float:
    """Fréchet inception distance (FID): 0 (the same distribution) upwards, lower is better. No unit.

    Heusel et al., 2017: |m1 - m2|^2 + trace(C1 + C2 - 2 (C1 C2)^(1/2)) of the means and covariances (divided
    by N - 1) of Inception pool features of all predicted and of all target frames, first frames of clips
    left out. It depends on the number of frames: compare only evaluations of the same clips. It is one number
    of all clips together, so it has no interval.

    Args:
        prediction, target: sums of at least two features each.
    """
    if min(prediction.count, target.count) < 2:
        raise ValueError("a covariance needs at least two images on each side")
    shift = prediction.mean - target.mean
    first, second = prediction.covariance, target.covariance
    # The eigenvalues of C1 C2 are those of the symmetric C1^(1/2) C2 C1^(1/2): real and not negative.
    values, vectors = np.linalg.eigh(first)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ second @ root).clip(min=0)).sum()
    distance = float(shift @ shift + np.trace(first) + np.trace(second) - 2 * cross)
    return max(0.0, distance)
