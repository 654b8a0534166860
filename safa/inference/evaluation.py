"""Evaluate one clip: animate it, score every frame, write a film, a strip and a table.

A clip streams through in batches: an hour of it needs the memory of a minute.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from safa.config.inference import EvaluateConfig, PictureConfig
from safa.data.schema import Code, Refused
from safa.data.store import ClipStore
from safa.data.video import write_video
from safa.head.model import landmarks_px
from safa.inference.animator import AnimatedBatch, Animator
from safa.inference.jobs import EvaluationJob
from safa.inference.motion import find_best_frame
from safa.inference.panels import film_panels, strip_panels
from safa.inference.scores import ScoreTable
from safa.models.safa import SourceCache
from safa.pictures.canvas import Picture, enlarge
from safa.pictures.strips import Panel, captioned, chosen_frames, strip
from safa.training.storage import appearing

RESULT, FILM, STRIP, FRAMES = "result.json", "film.mp4", "strip.jpg", "frames.parquet"
STRIP_QUALITY = 88  # of its JPEG


@dataclass(frozen=True)
class ClipResult:
    """What came out of one job.

    Attributes:
        job: what was done.
        source_person, driving_person: ids.
        n_frames: driving frames; in a reconstruction the source is the first of them.
        fps: of the film.
        scores: of a reconstruction, see ``ScoreTable.means``; NaN where no frame has one. Empty for an
            animation: nobody knows what it should look like.
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
    """Evaluates clips of a store with one model."""

    def __init__(self, animator: Animator, store: ClipStore, config: EvaluateConfig) -> None:
        self._animator, self._store, self._config = animator, store, config

    def run(self, job: EvaluationJob, folder: Path) -> ClipResult:
        """Do the job; its files appear in ``folder`` all at once.

        Raises:
            Refused: the clips cannot be evaluated, with the reason.
        """
        began = time.monotonic()
        source, driving = self._store.info(job.source), self._store.info(job.driving)
        n_frames = min(driving.n_frames, self._config.frames or driving.n_frames)
        if n_frames < 2:
            raise Refused(Code.TOO_SHORT, f"{n_frames} frame; a source and a driving frame are needed")
        face = next(self._frames(job.source, [0]))
        cache = self._animator.prepare(face)
        given = torch.from_numpy(self._store.landmarks(job.driving)[:n_frames])
        table = ScoreTable(cache.image, given) if job.mode == "reconstruction" else None
        film = _Film(self._animator, face, given, table, self._config.pictures)
        with appearing(folder) as temporary:
            frames = film.frames(self._batches(job, cache, n_frames))
            write_video(temporary / FILM, frames, driving.fps, crf=self._config.pictures.crf)
            film.write_strip(temporary / STRIP)
            if table:
                table.write(temporary / FRAMES, driving)
            result = ClipResult(
                job,
                source.person_id,
                driving.person_id,
                n_frames,
                driving.fps,
                scores=table.means() if table else {},
                seconds=round(time.monotonic() - began, 2),
            )
            (temporary / RESULT).write_text(result.to_json(), encoding="utf-8")
        return result

    def _batches(self, job: EvaluationJob, cache: SourceCache, n_frames: int) -> Iterator[AnimatedBatch]:
        frames = self._frames(job.driving, range(n_frames))
        if job.mode == "reconstruction":
            return self._animator.reconstruct(cache, frames)
        transfer = self._config.animation.transfer
        best = self._best_frame(job, n_frames) if transfer.best_frame else 0
        reference = next(self._frames(job.driving, [best]))
        return self._animator.animate(cache, frames, transfer, reference)

    def _best_frame(self, job: EvaluationJob, n_frames: int) -> int:
        source, driving = (self._store.landmarks(clip) for clip in (job.source, job.driving))
        try:
            return find_best_frame(source[0], driving[:n_frames])
        except ValueError as error:
            raise Refused(Code.NO_FACE, str(error)) from None

    def _frames(self, clip_id: str, numbers: Iterable[int]) -> Iterator[Picture]:
        for number in numbers:
            try:
                yield self._store.frames(clip_id, [number])[0]
            except (ValueError, OSError, pa.ArrowException) as error:
                raise Refused(Code.DECODE, f"{clip_id}, frame {number}: {error}") from None


class _Film:
    """One clip on its way through the model: what a person will look at, and the scores.

    Args:
        given: (T, 68, 2) px, landmarks of the driving frames.
        table: None if nothing is to be scored.
    """

    def __init__(
        self,
        animator: Animator,
        source: Picture,
        given: Tensor,
        table: ScoreTable | None,
        pictures: PictureConfig,
    ) -> None:
        self._tdmm, self._given, self._table = animator.model.tdmm, given, table
        self._source, self._large_source = source, enlarge(source, pictures.panel)
        self._pictures = pictures
        self._chosen = frozenset(chosen_frames(len(given), pictures.strip_frames))
        self._rows: list[list[Panel]] = []

    def frames(self, batches: Iterable[AnimatedBatch]) -> Iterator[Picture]:
        """The frames of the film, while table and strip are filled."""
        number = 0
        for batch in batches:
            geometry = self._tdmm.geometry(batch.face.code)
            estimated = landmarks_px(geometry, batch.driving.shape[-1]).cpu()
            if self._table is not None:
                self._table.add(batch, estimated)
            for i in range(len(batch.driving)):
                if number in self._chosen:
                    self._rows.append(self._strip_row(batch, i, estimated[i].numpy(), number))
                yield captioned(film_panels(self._large_source, batch, i), self._pictures.panel)
                number += 1

    def write_strip(self, path: Path) -> None:
        """A JPEG of the chosen frames."""
        Image.fromarray(strip(self._rows, self._pictures.panel)).save(
            path, "jpeg", quality=STRIP_QUALITY, subsampling=0
        )

    def _strip_row(
        self, batch: AnimatedBatch, i: int, estimated: NDArray[np.floating], number: int
    ) -> list[Panel]:
        given = self._given[number].numpy()
        return strip_panels(self._source, batch, i, given, estimated, self._pictures.panel)
