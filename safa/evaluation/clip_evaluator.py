"""Evaluation of one clip: run it through the model, score every frame, write a video, a strip and tables.

A clip streams through in batches, so an hour of it needs no more memory than a minute.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from safa.config.inference import EvaluateConfig, VisualsConfig
from safa.data.clip_store import ClipStore
from safa.data.video import write_video
from safa.errors import ClipError, FailureCode
from safa.evaluation.frame_scores import FeatureFiles, FrameScorer, ScoreTable
from safa.evaluation.jobs import EvaluationJob
from safa.evaluation.scorers import Scorers
from safa.files import Location, atomic_dir, dir_exists, exists, join, read_bytes
from safa.head.model import landmarks_px
from safa.inference.mesh import MeshTable, export_mesh, mesh_of, reconstruct_heads
from safa.inference.model_runner import ModelRunner
from safa.inference.motion_transfer import find_best_frame
from safa.inference.swap_mask import SwapMask
from safa.messages import count
from safa.models.safa import AnimatedBatch, SourceCache
from safa.visualize.images import RgbImage, enlarge
from safa.visualize.panels import (
    Panel,
    captioned,
    chosen_frames,
    mesh_strip_panels,
    mesh_video_panels,
    strip,
    strip_panels,
    video_panels,
)

RESULT, FRAMES, MESHES = "result.json", "frames.parquet", "mesh.parquet"
VIDEO, STRIP, POSTER = "video.mp4", "strip.jpg", "poster.jpg"
STRIP_QUALITY, POSTER_QUALITY = 88, 80  # of the JPEGs, 0 to 100


@dataclass(frozen=True)
class ClipResult:
    """The result of one job.

    Attributes:
        job: what was done.
        source_person: id of the person who gives the face.
        driving_person: id of the person who gives the motion.
        n_frames: number of driving frames; in a reconstruction the first of them is the source.
        fps: frames per second of the video.
        scores: see ``ScoreTable.means``; NaN where no frame has one. An animation or a swap has no target, so
            it has only scores that need none; there may be none at all.
        seconds: working time.
    """

    job: EvaluationJob
    source_person: str
    driving_person: str
    n_frames: int
    fps: float
    scores: Mapping[str, float]
    seconds: float

    def to_json(self) -> str:
        """Return the result as JSON, in which NaN is null."""
        plain = asdict(self) | {"scores": {k: None if math.isnan(v) else v for k, v in self.scores.items()}}
        return json.dumps(plain, indent=1)

    @classmethod
    def from_json(cls, text: str) -> ClipResult:
        """Read a result from what ``to_json`` returned."""
        plain: dict[str, Any] = json.loads(text)
        scores = {key: math.nan if value is None else value for key, value in plain["scores"].items()}
        return cls(**plain | {"scores": scores, "job": EvaluationJob(**plain["job"])})


def read_result(folder: Location) -> ClipResult | None:
    """The result in a clip's folder; None if the folder is not there, or not complete."""
    where = join(folder, RESULT)
    if not dir_exists(folder) or not exists(where):
        return None
    return ClipResult.from_json(read_bytes(where).decode())


class ClipEvaluator:
    """Evaluates clips of a data set with one model.

    Args:
        scorers: networks that metrics need.
        mask: where faces are swapped; needed for jobs of mode swap.
    """

    def __init__(
        self,
        runner: ModelRunner,
        store: ClipStore,
        config: EvaluateConfig,
        scorers: Scorers | None = None,
        mask: SwapMask | None = None,
    ) -> None:
        self._runner, self._store, self._config = runner, store, config
        self._scorers, self._mask = scorers or Scorers(), mask

    def run(self, job: EvaluationJob, folder: Location) -> ClipResult:
        """Do the job and write its files into ``folder``, which appears atomically.

        Raises:
            ClipError: the clips cannot be evaluated.
        """
        start = time.monotonic()
        source, driving = self._store.info(job.source), self._store.info(job.driving)
        n_frames = min(driving.n_frames, self._config.frames or driving.n_frames)
        if n_frames < 2:
            raise ClipError(
                FailureCode.TOO_SHORT, f"{count(n_frames, 'frame')}; a source and a driving frame are needed"
            )
        with atomic_dir(folder) as temporary:
            scores = (
                self._reconstruct_meshes(job, n_frames, temporary)
                if job.mode == "mesh"
                else self._reenact(job, n_frames, temporary)
            )
            result = ClipResult(
                job,
                source.person_id,
                driving.person_id,
                n_frames,
                driving.fps,
                scores,
                seconds=round(time.monotonic() - start, 2),
            )
            (temporary / RESULT).write_text(result.to_json(), encoding="utf-8")
        return result

    # ---- reconstruction, animation, swap -------------------------------------------------------------------

    def _reenact(self, job: EvaluationJob, n_frames: int, folder: Path) -> dict[str, float]:
        face = next(self._frames(job.source, [0]))
        cache = self._runner.prepare(face)
        has_target, driving = job.mode == "reconstruction", self._store.info(job.driving)
        with ExitStack() as stack:
            table = None
            if has_target or self._scorers.identity is not None or self._scorers.landmarks is not None:
                first_counted = int(has_target)
                table = ScoreTable(folder / FRAMES, job.mode, driving, job.source, first_counted)
                stack.enter_context(table)
            clip_scorer = _ClipScorer(cache, self._scorers, table, folder, has_target=has_target)
            visuals = self._visuals(job, face, cache, n_frames, clip_scorer)
            write_visuals(folder, visuals, n_frames, driving.fps, self._config.visuals)
        return clip_scorer.means()

    def _visuals(
        self, job: EvaluationJob, face: RgbImage, cache: SourceCache, n_frames: int, clip_scorer: _ClipScorer
    ) -> Iterator[FrameVisuals]:
        """Run the model, score its frames as they pass, and yield what is to be shown of them."""
        panel = self._config.visuals.panel
        large, tdmm = enlarge(face, panel), self._runner.model.tdmm
        stream = _LandmarkStream(self._store.landmark_pieces(job.driving))
        for batch in self._batches(job, cache, n_frames):
            landmarks = stream.take(len(batch.driving))
            estimated = landmarks_px(tdmm.geometry(batch.face.code), batch.driving.shape[-1]).cpu()
            clip_scorer.add(batch, estimated, landmarks)
            targets, estimates = landmarks.numpy(), estimated.numpy()
            for i in range(len(batch.driving)):
                make_strip = partial(strip_panels, face, batch, i, targets[i], estimates[i], panel)
                yield FrameVisuals(video_panels(large, batch, i), make_strip)

    def _batches(self, job: EvaluationJob, cache: SourceCache, n_frames: int) -> Iterator[AnimatedBatch]:
        frames = self._frames(job.driving, range(n_frames))
        if job.mode == "reconstruction":
            return self._runner.reconstruct(cache, frames)
        if job.mode == "swap":
            assert self._mask is not None, "a swap needs a mask"
            own = self._config.swap.source_shape
            return self._runner.swap(cache, frames, self._mask, source_shape=own)
        transfer = self._config.animation.transfer
        best = self._best_frame(job, n_frames) if transfer.best_frame else 0
        reference = next(self._frames(job.driving, [best]))
        return self._runner.animate(cache, frames, transfer, reference)

    def _best_frame(self, job: EvaluationJob, n_frames: int) -> int:
        source, driving = (self._store.landmarks(clip) for clip in (job.source, job.driving))
        try:
            return find_best_frame(source[0], driving[:n_frames])
        except ValueError as error:
            raise ClipError(FailureCode.NO_FACE, str(error)) from None

    # ---- mesh ----------------------------------------------------------------------------------------------

    def _reconstruct_meshes(self, job: EvaluationJob, n_frames: int, folder: Path) -> dict[str, float]:
        fps = self._store.info(job.driving).fps
        with MeshTable(folder / MESHES) as table:
            visuals = self._mesh_visuals(job, n_frames, table, folder)
            write_visuals(folder, visuals, n_frames, fps, self._config.visuals)
        return {}

    def _mesh_visuals(
        self, job: EvaluationJob, n_frames: int, table: MeshTable, folder: Path
    ) -> Iterator[FrameVisuals]:
        config, panel = self._config.mesh, self._config.visuals.panel
        exported = frozenset(chosen_frames(n_frames, config.export_frames) if config.export else ())
        stream, number = _LandmarkStream(self._store.landmark_pieces(job.driving)), 0
        for batch in reconstruct_heads(self._runner, self._frames(job.driving, range(n_frames))):
            table.add(batch)
            targets = stream.take(len(batch)).numpy()
            for i in range(len(batch)):
                if number in exported:
                    mesh = mesh_of(self._runner.model.tdmm, batch, i)
                    export_mesh(mesh, folder / f"frame{number:06d}", config.export)
                make_strip = partial(mesh_strip_panels, batch, i, targets[i], panel)
                yield FrameVisuals(mesh_video_panels(batch, i), make_strip)
                number += 1

    def _frames(self, clip_id: str, numbers: Iterable[int]) -> Iterator[RgbImage]:
        for number in numbers:
            try:
                yield self._store.frames(clip_id, [number])[0]
            except (ValueError, OSError, pa.ArrowException) as error:
                raise ClipError(FailureCode.DECODE, f"{clip_id}, frame {number}: {error}") from None


# ---- what it takes -----------------------------------------------------------------------------------------


class _ClipScorer:
    """Scores the batches of one clip, as far as there is anything to score."""

    def __init__(
        self,
        cache: SourceCache,
        scorers: Scorers,
        table: ScoreTable | None,
        folder: Path,
        *,
        has_target: bool,
    ) -> None:
        self._source, self._table = cache.image, table
        self._scorer = FrameScorer(cache.image, scorers, has_target=has_target)
        inception = scorers.inception if has_target else None
        self._features = FeatureFiles(folder, inception) if inception is not None else None

    def add(self, batch: AnimatedBatch, estimated: Tensor, landmarks: Tensor) -> None:
        if self._table is not None:
            self._table.add(self._scorer.scores(batch, estimated, landmarks), len(batch.driving))
        if self._features is not None:
            self._features.add(self._source, batch)

    def means(self) -> dict[str, float]:
        return {} if self._table is None else self._table.means() | self._scorer.expression()


class _LandmarkStream:
    """The landmarks of a clip, read piece by piece as they are needed."""

    def __init__(self, pieces: Iterator[NDArray[np.float32]]) -> None:
        self._pieces = pieces
        self._rest: NDArray[np.float32] = np.empty((0, 68, 2), np.float32)

    def take(self, n_frames: int) -> Tensor:
        """Return the landmarks (n_frames, 68, 2) px of the next frames."""
        while len(self._rest) < n_frames:
            self._rest = np.concatenate([self._rest, next(self._pieces)])
        taken, self._rest = self._rest[:n_frames], self._rest[n_frames:]
        return torch.from_numpy(taken.copy())


@dataclass(frozen=True)
class FrameVisuals:
    """What one frame adds to the video and the strip.

    Attributes:
        video: the panels of the video.
        strip: makes the panels of the strip, which only a few frames need.
    """

    video: list[Panel]
    strip: Callable[[], list[Panel]]


def write_visuals(
    folder: Path, visuals: Iterable[FrameVisuals], n_frames: int, fps: float, config: VisualsConfig
) -> None:
    """Write ``VIDEO``, ``STRIP`` and ``POSTER``, the middle frame, of ``n_frames`` frames as they pass."""
    chosen = frozenset(chosen_frames(n_frames, config.strip_frames))
    rows: list[list[Panel]] = []

    def frames() -> Iterator[RgbImage]:
        for number, frame in enumerate(visuals):
            if number in chosen:
                rows.append(frame.strip())
            shown = captioned(frame.video, config.panel)
            if number == n_frames // 2:
                Image.fromarray(shown).save(folder / POSTER, "jpeg", quality=POSTER_QUALITY)
            yield shown

    write_video(folder / VIDEO, frames(), fps, crf=config.crf)
    image = Image.fromarray(strip(rows, config.panel))
    image.save(folder / STRIP, "jpeg", quality=STRIP_QUALITY, subsampling=0)
