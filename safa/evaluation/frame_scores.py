"""Scores of a clip's frames: taken batch by batch while it streams through the model, written as they come.

Nothing here grows with the clip's length but the file.


XXX Inception features of a clip in a folder, and the Fréchet distance of all clips together.

Features are raw float32 rows, so that a long clip can be appended to and read in parts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
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
from safa.metrics import (
    AED,
    AKD,
    COPY_SOURCE,
    CSIM,
    DETECTION_RATE,
    FLICKER,
    FRAME_METRICS,
    IMAGE_METRICS,
    LANDMARK_NME,
    LPIPS,
    MS_SSIM,
    akd,
    cosine,
    detected,
    euclidean,
    flicker,
    landmark_nme,
)
from safa.metrics.frechet import FeatureSums, frechet_distance
from safa.metrics.images import MS_SSIM_MIN_SIZE
from safa.models.safa import AnimatedBatch

SCORES = tuple(metric.key + side for metric in FRAME_METRICS for side in ("", COPY_SOURCE))
FRAMES_SCHEMA = pa.schema(
    [
        ("mode", pa.string()),
        ("clip_id", pa.string()),  # the driving clip
        ("source_id", pa.string()),
        ("person_id", pa.string()),
        ("frame", pa.int32()),  # frame 0 of a reconstruction is the source: it is in no mean
        *((score, pa.float64()) for score in SCORES),  # NaN: no such number
    ]
)
ROWS_AT_ONCE = 1024  # frames in memory before they are written

Columns = dict[str, Tensor]


class FrameScorer:
    """Scores of the batches of one clip, in order.

    Args:
        source: (1, 3, S, S), whose pixels stand for copy-the-source.
        truth: whether the driving frames are what the predictions should be (a reconstruction). Otherwise
            nobody knows what they should look like, and only identity is scored, against the source.
    """

    @torch.inference_mode()
    def __init__(self, source: Tensor, scorers: Scorers, *, truth: bool) -> None:
        self._source, self._scorers, self._truth = source, scorers, truth
        self._before: tuple[Tensor, Tensor] | None = None  # last prediction and driving frame
        self._source_points = scorers.landmarks(source) if scorers.landmarks and truth else None
        self._source_identity = scorers.identity(source) if scorers.identity else None
        self._source_given: Tensor | None = None

    @torch.inference_mode()
    def scores(self, batch: AnimatedBatch, estimated: Tensor, target: Tensor) -> Columns:
        """Columns (B,) of ``SCORES`` for the next batch; what is not known is left out.

        Args:
            estimated: the 3DMM's landmarks (B, 68, 2) px of the driving frames.
            target: those that came with the data, NaN where a frame has no face.
        """
        made, wanted = batch.result.prediction, batch.driving
        if not self._truth:
            return self._identity(made, None)
        columns: Columns = {}
        for side, image in (("", made), (COPY_SOURCE, self._source)):
            for metric in IMAGE_METRICS:
                columns[metric.key + side] = metric.function(image, wanted)
            if min(wanted.shape[-2:]) >= MS_SSIM_MIN_SIZE:
                columns[MS_SSIM.key + side] = MS_SSIM.function(image, wanted)
            if self._scorers.lpips is not None:
                columns[LPIPS.key + side] = self._scorers.lpips(image, wanted)
        columns |= self._flicker(made, wanted) | self._landmarks(estimated.cpu(), target)
        return columns | self._points(made, wanted) | self._identity(made, wanted)

    def _flicker(self, made: Tensor, wanted: Tensor) -> Columns:
        before = self._before or (made[:1], wanted[:1])
        made_before = torch.cat([before[0], made[:-1]])
        wanted_before = torch.cat([before[1], wanted[:-1]])
        still = self._source.expand_as(wanted)
        columns = {
            FLICKER.key: flicker(made, wanted, made_before, wanted_before),
            FLICKER.key + COPY_SOURCE: flicker(still, wanted, still, wanted_before),
        }
        if self._before is None:  # the clip's first frame has no frame before
            for values in columns.values():
                values[0] = math.nan
        # Copies: views would keep the whole batch.
        self._before = made[-1:].clone(), wanted[-1:].clone()
        return columns

    def _landmarks(self, estimated: Tensor, given: Tensor) -> Columns:
        if self._source_given is None:
            self._source_given = given[:1].clone()
        return {
            LANDMARK_NME.key: landmark_nme(estimated, given),
            LANDMARK_NME.key + COPY_SOURCE: landmark_nme(self._source_given, given),
        }

    def _points(self, made: Tensor, wanted: Tensor) -> Columns:
        if self._scorers.landmarks is None or self._source_points is None:
            return {}
        size, found = wanted.shape[-1], self._scorers.landmarks(wanted)
        columns: Columns = {}
        for side, points in (("", self._scorers.landmarks(made)), (COPY_SOURCE, self._source_points)):
            columns[AKD.key + side] = akd(points, found, size)
            columns[DETECTION_RATE.key + side] = detected(points, found)
        return columns

    def _identity(self, made: Tensor, wanted: Tensor | None) -> Columns:
        """With ``wanted``, its identity is the one to have; without, the source's."""
        if self._scorers.identity is None or self._source_identity is None:
            return {}
        shown = self._scorers.identity(made)
        if wanted is None:
            copied = cosine(self._source_identity, self._source_identity).expand(len(made))
            return {CSIM.key: cosine(shown, self._source_identity), CSIM.key + COPY_SOURCE: copied}
        true = self._scorers.identity(wanted)
        columns: Columns = {}
        for side, embedding in (("", shown), (COPY_SOURCE, self._source_identity)):
            columns[AED.key + side] = euclidean(embedding, true)
            columns[CSIM.key + side] = cosine(embedding, true)
        return columns


class ScoreTable:
    """The file of a clip's frame scores (``FRAMES_SCHEMA``), and their means; use as a context.

    Args:
        first_counted: the first frame that is part of the means.
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
        """The next ``n_frames`` frames, at most ``ROWS_AT_ONCE``; columns that are left out are NaN."""
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
        """The clip's score of each kind (``clip_score``); NaN where no frame has one."""
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
