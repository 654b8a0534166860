"""Scores of the frames of a window, from arrays of predictions and targets.

``picture_scores`` needs no networks and runs on any CPU; ``NetworkScorer`` has those that do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from safa.evaluation.scorers import Scorers
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
from safa.metrics.images import MS_SSIM_MIN_SIZE

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
AT_ONCE = 8  # frames whose metrics are computed together: more would not stay in a CPU's caches

ScoreRows = NDArray[np.float64]  # (T, len(SCORES)), NaN where there is none


@dataclass(frozen=True)
class Features:
    """Inception features of a window of a reconstruction, without the clip's first frame: (T, D) float32.

    Attributes:
        source: (D,), of the source, which the baseline shows instead of every prediction.
    """

    prediction: NDArray[np.float32]
    target: NDArray[np.float32]
    source: NDArray[np.float32]


def rows_of(columns: Columns, n_frames: int) -> ScoreRows:
    """Columns as rows; missing ones become NaN, those of one value are that of every frame."""
    rows = np.full((n_frames, len(SCORES)), math.nan)
    for score, values in columns.items():
        rows[:, SCORES.index(score)] = values.expand(n_frames).double().cpu().numpy()
    return rows


# ---- without networks --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Compared:
    """Consecutive frames of a reconstruction.

    Attributes:
        source: (1, 3, S, S), which the baseline shows instead of every prediction.
        prediction, target: (T, 3, S, S) in [0, 1].
        prediction_before, target_before: (3, S, S) each, the frame before; None at the clip's beginning.
        estimated: (T, 68, 2) px, the 3DMM's landmarks of the target.
        landmarks: (T, 68, 2) px, those that came with the data; NaN where a frame has no face.
        source_landmarks: (1, 68, 2) px, likewise.
    """

    source: Tensor
    prediction: Tensor
    target: Tensor
    prediction_before: Tensor | None
    target_before: Tensor | None
    estimated: Tensor
    landmarks: Tensor
    source_landmarks: Tensor


@torch.inference_mode()
def picture_scores(frames: Compared) -> ScoreRows:
    """Score a reconstruction with all metrics that need no networks."""
    total = len(frames.target)
    rows = np.empty((total, len(SCORES)))
    for first in range(0, total, AT_ONCE):
        last = min(first + AT_ONCE, total)
        rows[first:last] = rows_of(_scores_of_some(frames, first, last), last - first)
    return rows


def _scores_of_some(frames: Compared, first: int, last: int) -> Columns:
    prediction, target = frames.prediction[first:last], frames.target[first:last]
    columns = image_scores(prediction, frames.source, target)
    if min(target.shape[-2:]) >= MS_SSIM_MIN_SIZE:
        for side, image in (("", prediction), (COPY_SOURCE, frames.source)):
            columns[MS_SSIM.key + side] = MS_SSIM.function(image, target)
    columns |= _flicker(frames, first, last)
    columns |= landmark_scores(
        frames.estimated[first:last], frames.source_landmarks, frames.landmarks[first:last]
    )
    return columns


def _flicker(frames: Compared, first: int, last: int) -> Columns:
    prediction, target = frames.prediction[first:last], frames.target[first:last]
    starts = first == 0 and frames.prediction_before is None
    before = _one_before(frames.prediction, frames.prediction_before, first, last)
    target_before = _one_before(frames.target, frames.target_before, first, last)
    still = frames.source.expand_as(target)
    columns = {
        FLICKER.key: flicker(prediction, target, before, target_before),
        FLICKER.key + COPY_SOURCE: flicker(still, target, still, target_before),
    }
    if starts:  # the clip's first frame has no frame before it
        for values in columns.values():
            values[0] = math.nan
    return columns


def _one_before(images: Tensor, before: Tensor | None, first: int, last: int) -> Tensor:
    """The images (T, 3, S, S) one frame earlier; of a clip's first frame itself."""
    if first > 0:
        return images[first - 1 : last - 1]
    head = images[:1] if before is None else before[None]
    return torch.cat([head, images[: last - 1]])


# ---- with networks -----------------------------------------------------------------------------------------


class NetworkScorer:
    """Scores frames with the networks that the user named, on their device.

    Args:
        batch_size: frames that pass through a network at once.
    """

    def __init__(self, scorers: Scorers, device: str | torch.device = "cpu", batch_size: int = 8) -> None:
        self._scorers, self._device, self._batch_size = scorers, torch.device(device), batch_size

    def is_needed(self, *, has_target: bool) -> bool:
        """Whether there is anything to score; without a target it is only the identity."""
        needed = self._scorers
        others = (needed.lpips, needed.inception) if has_target else ()
        return any(network is not None for network in (needed.identity, needed.landmarks, *others))

    @torch.inference_mode()
    def scores(
        self, source: Tensor, prediction: Tensor, target: Tensor, first: int, *, has_target: bool
    ) -> tuple[dict[str, NDArray[np.float64]], NDArray[np.float64]]:
        """Columns (T,) of ``SCORES``, for the metrics that need networks, and the sums of expression (16,).

        Args:
            source: (1, 3, S, S) in [0, 1].
            prediction: (T, 3, S, S), likewise.
            target: the driving frames, likewise.
            first: number of the first frame in its clip.
            has_target: whether predictions should look like the driving frames. Otherwise the identity is
                compared with the source's, and of landmarks only the expression is scored.
        """
        source, expression = source.to(self._device), ExpressionSums()
        points = self._scorers.landmarks(source) if self._scorers.landmarks and has_target else None
        identity = self._scorers.identity(source) if self._scorers.identity else None
        parts = []
        for start in range(0, len(prediction), self._batch_size):
            some = slice(start, start + self._batch_size)
            image, wanted = prediction[some].to(self._device), target[some].to(self._device)
            columns = self._identity(image, wanted if has_target else None, identity, first + start)
            columns |= self._detected(image, wanted, points, first + start, expression)
            if has_target:
                columns |= self._lpips(source, image, wanted)
            parts.append((len(image), columns))
        keys = dict.fromkeys(key for _, columns in parts for key in columns)
        return {key: _joined(parts, key) for key in keys}, expression.state

    def _lpips(self, source: Tensor, prediction: Tensor, target: Tensor) -> Columns:
        network = self._scorers.lpips
        if network is None:
            return {}
        return {
            LPIPS.key: network(prediction, target),
            LPIPS.key + COPY_SOURCE: network(source, target),
        }

    def _detected(
        self,
        prediction: Tensor,
        target: Tensor,
        source_points: Tensor | None,
        first: int,
        expression: ExpressionSums,
    ) -> Columns:
        """Compare the landmarks that the detector finds in both."""
        chosen = _chosen(first, len(target), self._scorers.landmarks_every)
        if self._scorers.landmarks is None or not chosen:
            return {}
        size, target_points = target.shape[-1], self._scorers.landmarks(target[chosen])
        predicted_points = self._scorers.landmarks(prediction[chosen])
        moved = int(source_points is not None and first + chosen[0] == 0)  # the source, nobody has to move it
        expression.add(predicted_points[moved:], target_points[moved:])
        columns: Columns = {}
        if source_points is not None:
            for side, points in (("", predicted_points), (COPY_SOURCE, source_points)):
                columns[AKD.key + side] = akd(points, target_points, size)
                columns[DETECTION_RATE.key + side] = detected(points, target_points)
        return _spread(columns, chosen, len(target))

    def _identity(
        self, prediction: Tensor, target: Tensor | None, source: Tensor | None, first: int
    ) -> Columns:
        """Compare identities with the target's or, where there is none, with the source's."""
        chosen = _chosen(first, len(prediction), self._scorers.identity_every)
        if self._scorers.identity is None or source is None or not chosen:
            return {}
        predicted = self._scorers.identity(prediction[chosen])
        if target is None:
            copied = cosine(source, source).expand(len(chosen))
            columns = {CSIM.key: cosine(predicted, source), CSIM.key + COPY_SOURCE: copied}
            return _spread(columns, chosen, len(prediction))
        target_identity = self._scorers.identity(target[chosen])
        columns = {}
        for side, embedding in (("", predicted), (COPY_SOURCE, source)):
            columns[AED.key + side] = euclidean(embedding, target_identity)
            columns[CSIM.key + side] = cosine(embedding, target_identity)
        return _spread(columns, chosen, len(prediction))

    @torch.inference_mode()
    def features(self, source: Tensor, prediction: Tensor, target: Tensor) -> Features | None:
        """Inception features of these frames; None without that network.

        Args:
            source: (1, 3, S, S) in [0, 1].
            prediction, target: (T, 3, S, S), likewise; there may be none.
        """
        if self._scorers.inception is None:
            return None
        copied = self._embedded(source)
        return Features(self._embedded(prediction, copied), self._embedded(target, copied), copied[0])

    def _embedded(self, images: Tensor, like: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        assert self._scorers.inception is not None
        parts = [
            self._scorers.inception(part.to(self._device)).float().cpu().numpy()
            for part in torch.split(images, self._batch_size)
            if len(part)
        ]
        return np.concatenate(parts) if parts or like is None else like[:0]


def _chosen(first: int, n_frames: int, every: int) -> list[int]:
    """Which of these frames a scorer sees that looks at each ``every``-th one of a clip."""
    return [index for index in range(n_frames) if (first + index) % every == 0]


def _spread(columns: Columns, chosen: Sequence[int], n_frames: int) -> Columns:
    """Columns of the chosen frames as columns (n_frames,) of all, NaN in the others."""
    spread: Columns = {}
    for key, values in columns.items():
        spread[key] = torch.full((n_frames,), math.nan, dtype=torch.float64)
        spread[key][list(chosen)] = values.expand(len(chosen)).double().cpu()
    return spread


def _joined(parts: Sequence[tuple[int, Columns]], key: str) -> NDArray[np.float64]:
    """A column of all batches; NaN where one lacks it."""
    missing = torch.full((1,), math.nan)
    joined = torch.cat([columns.get(key, missing).expand(count).double().cpu() for count, columns in parts])
    rows: NDArray[np.float64] = joined.numpy()
    return rows


def clip_expression(state: NDArray[np.float64]) -> dict[str, float]:
    """Scores of ``CLIP_METRICS`` from sums of expression, and of copying the source, which never moves."""
    scores = ExpressionSums.of(state).scores()
    copied = {
        key + COPY_SOURCE: 0.0 if key.endswith("_gain") and math.isfinite(value) else math.nan
        for key, value in scores.items()
    }
    return scores | copied
