"""Scores of a clip's frames, gathered batch by batch while it streams through the model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from safa.data.store import ClipInfo
from safa.inference.animator import AnimatedBatch
from safa.metrics import COPY_SOURCE, IMAGE_METRICS, LANDMARK_NME, METRICS, clip_score, landmark_nme

SCORES = tuple(metric.key + side for metric in METRICS for side in ("", COPY_SOURCE))
FRAMES_SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("person_id", pa.string()),
        ("frame", pa.int32()),  # frame 0 is the source: it is in no mean
        *((score, pa.float64()) for score in SCORES),
    ]
)


class ScoreTable:
    """Scores of every frame of one reconstruction, in order; frame 0 is the source.

    Args:
        source: (1, 3, S, S), whose pixels and landmarks stand for copy-the-source.
        given_landmarks: (T, 68, 2) px, NaN where a frame has no face.
    """

    def __init__(self, source: Tensor, given_landmarks: Tensor) -> None:
        self._source, self._given = source, given_landmarks
        self._columns: dict[str, list[float]] = {score: [] for score in SCORES}

    def add(self, batch: AnimatedBatch, estimated_BL2: Tensor) -> None:
        """The next frames; ``estimated_BL2`` are the 3DMM's landmarks (B, 68, 2) px of the driving frames."""
        first = len(self)
        given = self._given[first : first + len(batch.driving)]
        sides = {"": batch.result.prediction, COPY_SOURCE: self._source}
        for side, image in sides.items():
            for metric in IMAGE_METRICS:
                self._put(metric.key + side, metric.function(image, batch.driving))
        self._put(LANDMARK_NME.key, landmark_nme(estimated_BL2.cpu(), given))
        self._put(LANDMARK_NME.key + COPY_SOURCE, landmark_nme(self._given[:1], given))

    def means(self) -> dict[str, float]:
        """The clip's score of each kind, without frame 0, which would copy itself."""
        return {score: clip_score(np.array(values[1:])) for score, values in self._columns.items()}

    def write(self, path: Path, clip: ClipInfo) -> None:
        """One row per frame, as ``FRAMES_SCHEMA`` says."""
        ids = {"clip_id": [clip.clip_id] * len(self), "person_id": [clip.person_id] * len(self)}
        rows = pa.table(ids | {"frame": range(len(self))} | self._columns, schema=FRAMES_SCHEMA)
        pq.write_table(rows, path)

    def __len__(self) -> int:
        return len(self._columns[SCORES[0]])

    def _put(self, score: str, values: Tensor) -> None:
        self._columns[score] += values.tolist()
