"""Evaluate one clip: put it through the model, score every frame, write a video, a strip and tables.

A clip streams through in batches: an hour of it needs the memory of a minute.


XXX What a person will look at: a clip's video, and a strip of some of its moments, made while it streams by."""

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

from safa.config.inference import EvaluateConfig, PictureConfig
from safa.data.clip_store import ClipStore
from safa.data.video import write_video
from safa.errors import ClipError, FailureCode
from safa.evaluation.frame_scores import FeatureFiles, FrameScorer, ScoreTable
from safa.evaluation.jobs import EvaluationJob
from safa.evaluation.scorers import Scorers
from safa.files import atomic_dir
from safa.head.model import landmarks_px
from safa.inference.mesh import MeshTable, export_mesh, mesh_of, reconstruct_heads
from safa.inference.model_runner import ModelRunner
from safa.inference.motion_transfer import find_best_frame
from safa.inference.swap_mask import SwapMask
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

__all__ = ["FRAMES", "MESHES", "RESULT", "STRIP", "VIDEO", "ClipEvaluator", "ClipResult"]


@dataclass(frozen=True)
class ClipResult:
    """What came out of one job.

    Attributes:
        job: what was done.
        source_person, driving_person: ids.
        n_frames: driving frames; in a reconstruction the source is the first of them.
        fps: of the video.
        scores: see ``ScoreTable.means``; NaN where no frame has one. Of an animation or a swap only those
            that need no truth, since nobody knows what it should look like; empty if there are none.
        seconds: of work.
    """

    job: EvaluationJob
    source_person: str
    driving_person: str
    n_frames: int
    fps: float
    scores: Mapping[str, float]
    seconds: float

    def to_json(self) -> str:
        """As text; NaN becomes null."""
        plain = asdict(self) | {"scores": {k: None if math.isnan(v) else v for k, v in self.scores.items()}}
        return json.dumps(plain, indent=1)

    @classmethod
    def from_json(cls, text: str) -> ClipResult:
        """The inverse of ``to_json``."""
        plain: dict[str, Any] = json.loads(text)
        scores = {key: math.nan if value is None else value for key, value in plain["scores"].items()}
        return cls(**plain | {"scores": scores, "job": EvaluationJob(**plain["job"])})


class ClipEvaluator:
    """Evaluates clips of a store with one model.

    Args:
        scorers: networks that score.
        mask: where faces are swapped; needed for jobs of that mode.
    """

    def __init__(
        self,
        animator: ModelRunner,
        store: ClipStore,
        config: EvaluateConfig,
        scorers: Scorers | None = None,
        mask: SwapMask | None = None,
    ) -> None:
        self._animator, self._store, self._config = animator, store, config
        self._scorers, self._mask = scorers or Scorers(), mask

    def run(self, job: EvaluationJob, folder: Path) -> ClipResult:
        """Do the job; its files appear in ``folder`` all at once.

        Raises:
            ClipError: the clips cannot be evaluated, with the reason.
        """
        began = time.monotonic()
        source, driving = self._store.info(job.source), self._store.info(job.driving)
        n_frames = min(driving.n_frames, self._config.frames or driving.n_frames)
        if n_frames < 2:
            raise ClipError(
                FailureCode.TOO_SHORT, f"{n_frames} frame; a source and a driving frame are needed"
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
                seconds=round(time.monotonic() - began, 2),
            )
            (temporary / RESULT).write_text(result.to_json(), encoding="utf-8")
        return result

    # ---- reconstruction, animation, swap -------------------------------------------------------------------

    def _reenact(self, job: EvaluationJob, n_frames: int, folder: Path) -> dict[str, float]:
        face = next(self._frames(job.source, [0]))
        cache = self._animator.prepare(face)
        truth, driving = job.mode == "reconstruction", self._store.info(job.driving)
        with ExitStack() as stack:
            table = None
            if truth or self._scorers.identity is not None:
                table = ScoreTable(folder / FRAMES, job.mode, driving, job.source, first_counted=int(truth))
                stack.enter_context(table)
            clip_scorer = _ClipScorer(cache, self._scorers, table, folder, truth=truth)
            shown = self._shown(job, face, cache, n_frames, clip_scorer)
            write_pictures(folder, shown, n_frames, driving.fps, self._config.pictures)
        return clip_scorer.means()

    def _shown(
        self, job: EvaluationJob, face: RgbImage, cache: SourceCache, n_frames: int, clip_scorer: _ClipScorer
    ) -> Iterator[Shown]:
        panel = self._config.pictures.panel
        large, tdmm = enlarge(face, panel), self._animator.model.tdmm
        given = _Landmarks(self._store.landmark_pieces(job.driving))
        for batch in self._batches(job, cache, n_frames):
            wanted = given.take(len(batch.driving))
            found = landmarks_px(tdmm.geometry(batch.face.code), batch.driving.shape[-1]).cpu()
            clip_scorer.see(batch, found, wanted)
            points = wanted.numpy(), found.numpy()
            for i in range(len(batch.driving)):
                strip = partial(strip_panels, face, batch, i, points[0][i], points[1][i], panel)
                yield Shown(video_panels(large, batch, i), strip)

    def _batches(self, job: EvaluationJob, cache: SourceCache, n_frames: int) -> Iterator[AnimatedBatch]:
        frames = self._frames(job.driving, range(n_frames))
        if job.mode == "reconstruction":
            return self._animator.reconstruct(cache, frames)
        if job.mode == "swap":
            assert self._mask is not None, "no mask for a swap"
            return self._animator.swap(cache, frames, self._mask)
        transfer = self._config.animation.transfer
        best = self._best_frame(job, n_frames) if transfer.best_frame else 0
        reference = next(self._frames(job.driving, [best]))
        return self._animator.animate(cache, frames, transfer, reference)

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
            shown = self._shown_meshes(job, n_frames, table, folder)
            write_pictures(folder, shown, n_frames, fps, self._config.pictures)
        return {}

    def _shown_meshes(
        self, job: EvaluationJob, n_frames: int, table: MeshTable, folder: Path
    ) -> Iterator[Shown]:
        config, panel = self._config.mesh, self._config.pictures.panel
        exported = frozenset(chosen_frames(n_frames, config.export_frames) if config.export else ())
        given, number = _Landmarks(self._store.landmark_pieces(job.driving)), 0
        for batch in reconstruct_heads(self._animator, self._frames(job.driving, range(n_frames))):
            table.add(batch)
            wanted = given.take(len(batch)).numpy()
            for i in range(len(batch)):
                if number in exported:
                    mesh = mesh_of(self._animator.model.tdmm, batch, i)
                    export_mesh(mesh, folder / f"frame{number:06d}", config.export)
                yield Shown(
                    mesh_video_panels(batch, i), partial(mesh_strip_panels, batch, i, wanted[i], panel)
                )
                number += 1

    def _frames(self, clip_id: str, numbers: Iterable[int]) -> Iterator[RgbImage]:
        for number in numbers:
            try:
                yield self._store.frames(clip_id, [number])[0]
            except (ValueError, OSError, pa.ArrowException) as error:
                raise ClipError(FailureCode.DECODE, f"{clip_id}, frame {number}: {error}") from None


class _ClipScorer:
    """Scores what passes, if there is anything to score."""

    def __init__(
        self, cache: SourceCache, scorers: Scorers, table: ScoreTable | None, folder: Path, *, truth: bool
    ) -> None:
        self._source, self._table = cache.image, table
        self._scorer = FrameScorer(cache.image, scorers, truth=truth)
        wanted = truth and scorers.inception is not None
        self._features = FeatureFiles(folder, scorers.inception) if wanted and scorers.inception else None

    def see(self, batch: AnimatedBatch, estimated: Tensor, given: Tensor) -> None:
        if self._table is not None:
            self._table.add(self._scorer.scores(batch, estimated, given), len(batch.driving))
        if self._features is not None:
            self._features.add(self._source, batch)

    def means(self) -> dict[str, float]:
        return {} if self._table is None else self._table.means()


class _Landmarks:
    """A clip's landmarks, read piece by piece as they are needed."""

    def __init__(self, pieces: Iterator[NDArray[np.float32]]) -> None:
        self._pieces = pieces
        self._rest: NDArray[np.float32] = np.empty((0, 68, 2), np.float32)

    def take(self, count: int) -> Tensor:
        """The next ``count`` frames' (count, 68, 2)."""
        while len(self._rest) < count:
            self._rest = np.concatenate([self._rest, next(self._pieces)])
        taken, self._rest = self._rest[:count], self._rest[count:]
        return torch.from_numpy(taken.copy())


VIDEO, STRIP = "video.mp4", "strip.jpg"
STRIP_QUALITY = 88  # of its JPEG


@dataclass(frozen=True)
class Shown:
    """One frame: the panels of the video, and how to make those of the strip, which few frames need."""

    video: list[Panel]
    strip: Callable[[], list[Panel]]


def write_pictures(
    folder: Path, shown: Iterable[Shown], n_frames: int, fps: float, pictures: PictureConfig
) -> None:
    """Write ``VIDEO`` and ``STRIP`` of ``n_frames`` frames."""
    chosen = frozenset(chosen_frames(n_frames, pictures.strip_frames))
    rows: list[list[Panel]] = []

    def frames() -> Iterator[RgbImage]:
        for number, frame in enumerate(shown):
            if number in chosen:
                rows.append(frame.strip())
            yield captioned(frame.video, pictures.panel)

    write_video(folder / VIDEO, frames(), fps, crf=pictures.crf)
    picture = Image.fromarray(strip(rows, pictures.panel))
    picture.save(folder / STRIP, "jpeg", quality=STRIP_QUALITY, subsampling=0)
