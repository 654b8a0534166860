"""Inception features of a clip in a folder, and the Fréchet distance of all clips together.

Features are raw float32 rows, so that a long clip can be appended to and read in parts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from safa.inference.animator import AnimatedBatch
from safa.metrics.frechet import FeatureSums, frechet_distance
from safa.metrics.networks import Network

MADE, TRUE, SOURCE = "made.f32", "true.f32", "source.f32"
ROWS_AT_ONCE = 1024  # in memory


class FeatureFiles:
    """Writes the features of a clip's predictions, of its true frames and of its source.

    The first frame, which is the source, is left out of predictions and truth.
    """

    def __init__(self, folder: Path, inception: Network) -> None:
        self._folder, self._inception, self._begun = folder, inception, False

    @torch.inference_mode()
    def add(self, source: Tensor, batch: AnimatedBatch) -> None:
        """The next batch; ``source`` is (1, 3, S, S)."""
        first = 0 if self._begun else 1
        if not self._begun:
            self._append(SOURCE, self._inception(source))
        if len(batch.driving) > first:
            self._append(MADE, self._inception(batch.result.prediction[first:]))
            self._append(TRUE, self._inception(batch.driving[first:]))
        self._begun = True

    def _append(self, name: str, features: Tensor) -> None:
        with (self._folder / name).open("ab") as file:
            file.write(features.float().cpu().numpy().tobytes())


def fid_of_clips(folders: list[Path]) -> tuple[float, float]:
    """FID of the predictions in these folders, and of copying the sources; NaN if there are no features.

    Sums are taken clip by clip in the order given, so the number does not depend on who made the features.
    """
    folders = [folder for folder in folders if (folder / SOURCE).exists()]
    if not folders:
        return math.nan, math.nan
    width = (folders[0] / SOURCE).stat().st_size // 4
    made, true, copied = FeatureSums(width), FeatureSums(width), FeatureSums(width)
    for folder in folders:
        for sums, name in ((made, MADE), (true, TRUE)):
            for rows in _rows(folder / name, width):
                sums.add(rows)
        num_frames = (folder / TRUE).stat().st_size // (4 * width)
        copied.add(next(_rows(folder / SOURCE, width)), times=num_frames)
    return frechet_distance(made, true), frechet_distance(copied, true)


def _rows(path: Path, width: int) -> Iterator[NDArray[np.float32]]:
    with path.open("rb") as file:
        while data := file.read(ROWS_AT_ONCE * width * 4):
            yield np.frombuffer(data, np.float32).reshape(-1, width)
