"""Scores of a clip's frames, taken batch by batch while the clip streams through the model.

``FrameScorer`` computes them, ``ScoreTable`` writes them and keeps their means. ``FeatureFiles`` writes
Inception features beside them, from which ``fid_of_clips`` computes the Fréchet distance of all clips; they
are raw float32 rows, so that a long clip can be appended to and read in parts. Only files grow with the
length of a clip, never the memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from safa.data.clip_store import ClipInfo
from safa.evaluation.scorers import Network, Scorers
from safa.files import Location, exists, filesystem, join, size_of
from safa.metrics import (
    AED,
    AKD,
    COPY_SOURCE,
    CSIM,
    DETECTION_RATE,
    FLICKER,
    FRAME_METRICS,
    LPIPS,
    MS_SSIM,
    PER_CLIP,
    Columns,
    ExpressionSums,
    akd,
    cosine,
    detected,
    euclidean,
    flicker,
    image_scores,
    landmark_scores,
)
from safa.metrics.frechet import FeatureSums, frechet_distance
from safa.metrics.images import MS_SSIM_MIN_SIZE
from safa.models.safa import AnimatedBatch

SCORES = tuple(metric.key + side for metric in FRAME_METRICS for side in ("", COPY_SOURCE))
CLIP_SCORES = tuple(metric.key + side for metric in PER_CLIP for side in ("", COPY_SOURCE))
FRAMES_SCHEMA = pa.schema(
    [
        ("mode", pa.string()),
        ("clip_id", pa.string()),  # the driving clip
        ("source_id", pa.string()),
        ("person_id", pa.string()),
        ("frame", pa.int32()),  # frame 0 of a reconstruction is the source: it is in no mean
        *((score, pa.float64()) for score in SCORES),  # NaN: the frame has no such score
    ]
)
ROWS_AT_ONCE = 1024  # frames in memory before they are written, or while they are read
PREDICTION, TARGET, SOURCE = "made.f32", "true.f32", "source.f32"  # files of Inception features


# ---- computed ----------------------------------------------------------------------------------------------


class FrameScorer:
    """Scores the batches of one clip in order.

    Args:
        source: (1, 3, S, S), which the baseline shows instead of every prediction.
        has_target: whether the driving frames are what the predictions should look like, as in a
            reconstruction. Otherwise there is no target, and only identity is scored, against the source, and
            expression, against the driving frames.
    """

    @torch.inference_mode()
    def __init__(self, source: Tensor, scorers: Scorers, *, has_target: bool) -> None:
        self._source, self._scorers, self._has_target = source, scorers, has_target
        self._before: tuple[Tensor, Tensor] | None = None  # last prediction and last target
        self._source_points = scorers.landmarks(source) if scorers.landmarks and has_target else None
        self._source_identity = scorers.identity(source) if scorers.identity else None
        self._source_landmarks: Tensor | None = None  # (1, 68, 2) px, that came with the data
        self._seen = 0  # frames so far
        self._expression = ExpressionSums()

    @torch.inference_mode()
    def scores(self, batch: AnimatedBatch, estimated: Tensor, landmarks: Tensor) -> Columns:
        """Return columns (B,) of ``SCORES`` for the next batch; scores that do not exist are left out.

        Args:
            estimated: (B, 68, 2) px, the 3DMM's landmarks of the driving frames.
            landmarks: (B, 68, 2) px, those that came with the data; NaN where a frame has no face.
        """
        prediction, target = batch.result.prediction, batch.driving
        detected_columns = self._detected(prediction, target)
        identity_columns = self._identity(prediction, target if self._has_target else None)
        self._seen += len(target)
        if not self._has_target:
            return identity_columns
        if self._source_landmarks is None:
            self._source_landmarks = landmarks[:1].clone()
        columns = image_scores(prediction, self._source, target)
        for side, image in (("", prediction), (COPY_SOURCE, self._source)):
            if min(target.shape[-2:]) >= MS_SSIM_MIN_SIZE:
                columns[MS_SSIM.key + side] = MS_SSIM.function(image, target)
            if self._scorers.lpips is not None:
                columns[LPIPS.key + side] = self._scorers.lpips(image, target)
        columns |= self._flicker(prediction, target)
        columns |= landmark_scores(estimated.cpu(), self._source_landmarks, landmarks)
        return columns | detected_columns | identity_columns

    def expression(self) -> dict[str, float]:
        """Return the clip's scores of ``CLIP_METRICS``, and of copying the source, which never moves."""
        scores = self._expression.scores()
        copied = {
            key + COPY_SOURCE: 0.0 if key.endswith("_gain") and math.isfinite(value) else math.nan
            for key, value in scores.items()
        }
        return scores | copied

    def _flicker(self, prediction: Tensor, target: Tensor) -> Columns:
        before = self._before or (prediction[:1], target[:1])
        prediction_before = torch.cat([before[0], prediction[:-1]])
        target_before = torch.cat([before[1], target[:-1]])
        still = self._source.expand_as(target)
        columns = {
            FLICKER.key: flicker(prediction, target, prediction_before, target_before),
            FLICKER.key + COPY_SOURCE: flicker(still, target, still, target_before),
        }
        if self._before is None:  # the clip's first frame has no frame before it
            for values in columns.values():
                values[0] = math.nan
        # Copies, since views would keep the whole batch in memory.
        self._before = prediction[-1:].clone(), target[-1:].clone()
        return columns

    def _detected(self, prediction: Tensor, target: Tensor) -> Columns:
        """Compare the landmarks that the detector finds in both."""
        chosen = self._chosen(len(target), self._scorers.landmarks_every)
        if self._scorers.landmarks is None or not chosen:
            return {}
        size, target_points = target.shape[-1], self._scorers.landmarks(target[chosen])
        predicted_points = self._scorers.landmarks(prediction[chosen])
        first = int(self._has_target and chosen[0] + self._seen == 0)  # the source, which nobody has to move
        self._expression.add(predicted_points[first:], target_points[first:])
        columns: Columns = {}
        if self._source_points is not None:
            for side, points in (("", predicted_points), (COPY_SOURCE, self._source_points)):
                columns[AKD.key + side] = akd(points, target_points, size)
                columns[DETECTION_RATE.key + side] = detected(points, target_points)
        return _spread(columns, chosen, len(target))

    def _chosen(self, n_frames: int, every: int) -> list[int]:
        """Which of the next frames a scorer sees that looks at each ``every``-th one of a clip."""
        return [index for index in range(n_frames) if (self._seen + index) % every == 0]

    def _identity(self, prediction: Tensor, target: Tensor | None) -> Columns:
        """Compare identities with the target's or, where there is none, with the source's."""
        chosen = self._chosen(len(prediction), self._scorers.identity_every)
        if self._scorers.identity is None or self._source_identity is None or not chosen:
            return {}
        predicted = self._scorers.identity(prediction[chosen])
        if target is None:
            copied = cosine(self._source_identity, self._source_identity).expand(len(chosen))
            columns = {CSIM.key: cosine(predicted, self._source_identity), CSIM.key + COPY_SOURCE: copied}
            return _spread(columns, chosen, len(prediction))
        target_identity = self._scorers.identity(target[chosen])
        columns = {}
        for side, embedding in (("", predicted), (COPY_SOURCE, self._source_identity)):
            columns[AED.key + side] = euclidean(embedding, target_identity)
            columns[CSIM.key + side] = cosine(embedding, target_identity)
        return _spread(columns, chosen, len(prediction))


def _spread(columns: Columns, chosen: Sequence[int], n_frames: int) -> Columns:
    """Columns of the chosen frames as columns (n_frames,) of all, NaN in the others."""
    if len(chosen) == n_frames:
        return columns
    spread: Columns = {}
    for key, values in columns.items():
        spread[key] = torch.full((n_frames,), math.nan, dtype=values.dtype, device=values.device)
        spread[key][list(chosen)] = values
    return spread


# ---- written -----------------------------------------------------------------------------------------------


class ScoreTable:
    """Writes the file of a clip's frame scores (``FRAMES_SCHEMA``) and keeps their means; a context manager.

    Args:
        first_counted: number of the first frame that counts in the means.
    """

    def __init__(self, path: Path, mode: str, clip: ClipInfo, source_id: str, first_counted: int) -> None:
        self._writer = pq.ParquetWriter(path, FRAMES_SCHEMA)
        self._ids = {
            "mode": mode,
            "clip_id": clip.clip_id,
            "source_id": source_id,
            "person_id": clip.person_id,
        }
        self._first_counted, self._written, self._waiting = first_counted, 0, 0
        self._sums, self._numbers = np.zeros(len(SCORES)), np.zeros(len(SCORES), int)
        # One array for all: small ones of every batch, kept between the large ones of the model, would leave
        # holes in memory that nothing fits into.
        self._rows = np.empty((ROWS_AT_ONCE, len(SCORES)))

    def add(self, columns: Mapping[str, Tensor], n_frames: int) -> None:
        """Add the next ``n_frames`` frames, at most ``ROWS_AT_ONCE``; missing columns become NaN."""
        if self._waiting + n_frames > ROWS_AT_ONCE:
            self._flush()
        rows = self._rows[self._waiting : self._waiting + n_frames]
        rows[:] = math.nan
        for score, values in columns.items():
            rows[:, SCORES.index(score)] = values.expand(n_frames).double().cpu().numpy()
        self._waiting += n_frames
        counted = rows[max(0, self._first_counted - self._written - self._waiting + n_frames) :]
        known = np.isfinite(counted)
        self._sums += np.where(known, counted, 0.0).sum(axis=0)
        self._numbers += known.sum(axis=0)

    def means(self) -> dict[str, float]:
        """Return the clip's score of each kind (``clip_score``); NaN where no frame has one."""
        pairs = zip(SCORES, self._sums.tolist(), self._numbers.tolist(), strict=True)
        return {score: total / number if number else math.nan for score, total, number in pairs}

    def _flush(self) -> None:
        count = self._waiting
        columns: dict[str, Any] = {name: [value] * count for name, value in self._ids.items()}
        columns["frame"] = range(self._written, self._written + count)
        columns |= {score: self._rows[:count, i].copy() for i, score in enumerate(SCORES)}
        if count:
            self._writer.write_table(pa.table(columns, schema=FRAMES_SCHEMA))
        self._written, self._waiting = self._written + count, 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._flush()
        self._writer.close()


class FeatureFiles:
    """Writes Inception features of a clip's predictions, targets and source.

    The first frame is the source, so it is left out of predictions and targets.
    """

    def __init__(self, folder: Path, inception: Network) -> None:
        self._folder, self._inception, self._has_begun = folder, inception, False

    @torch.inference_mode()
    def add(self, source: Tensor, batch: AnimatedBatch) -> None:
        """Add the next batch; ``source`` is (1, 3, S, S)."""
        first = 0 if self._has_begun else 1
        if not self._has_begun:
            self._append(SOURCE, self._inception(source))
        if len(batch.driving) > first:
            self._append(PREDICTION, self._inception(batch.result.prediction[first:]))
            self._append(TARGET, self._inception(batch.driving[first:]))
        self._has_begun = True

    def _append(self, name: str, features: Tensor) -> None:
        with (self._folder / name).open("ab") as file:
            file.write(features.float().cpu().numpy().tobytes())


def fid_of_clips(folders: Sequence[Location]) -> tuple[float, float]:
    """Return the FID of the predictions in these folders, and of copying the sources; NaN without features.

    Sums are taken clip by clip in the order of the folders, so the number does not depend on which worker
    wrote the features.
    """
    folders = [folder for folder in folders if exists(join(folder, SOURCE))]
    if not folders:
        return math.nan, math.nan
    width = size_of(join(folders[0], SOURCE)) // 4  # features of one image; 4 bytes each
    prediction, target, copied = FeatureSums(width), FeatureSums(width), FeatureSums(width)
    for folder in folders:
        for sums, name in ((prediction, PREDICTION), (target, TARGET)):
            for rows in _read_rows(join(folder, name), width):
                sums.add(rows)
        num_frames = size_of(join(folder, TARGET)) // (4 * width)
        copied.add(next(_read_rows(join(folder, SOURCE), width)), times=num_frames)
    return frechet_distance(prediction, target), frechet_distance(copied, target)


def _read_rows(location: Location, width: int) -> Iterator[NDArray[np.float32]]:
    store, path = filesystem(location)
    with store.open_input_stream(path) as file:
        while data := file.read(ROWS_AT_ONCE * width * 4):
            yield np.frombuffer(data, np.float32).reshape(-1, width)
