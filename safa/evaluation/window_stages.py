"""The stages of an evaluation, window by window: read, model, networks, score.

Each takes what the one before made, so they can run in processes of their own, or one after the other in the
same process. Scores are taken from the model's float output, never from encoded pictures.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from safa.config.inference import EvaluateConfig
from safa.data.clip_store import ClipStore
from safa.errors import ClipError, FailureCode
from safa.evaluation.clip_files import MESHES, clip_visuals
from safa.evaluation.frame_scores import (
    Compared,
    Features,
    NetworkScorer,
    ScoreRows,
    picture_scores,
    rows_of,
)
from safa.evaluation.scorers import Scorers
from safa.evaluation.windows import Window
from safa.head.model import landmarks_px
from safa.inference.mesh import MeshTable, export_mesh, mesh_of, reconstruct_heads
from safa.inference.model_runner import ModelRunner
from safa.inference.motion_transfer import find_best_frame
from safa.inference.swap_mask import SwapMask
from safa.models.safa import AnimatedBatch, SourceCache
from safa.models.tdmm import HeadBatch
from safa.visualize.images import RgbImage, enlarge, from_tensor
from safa.visualize.panels import (
    Panel,
    chosen_frames,
    mesh_strip_panels,
    mesh_video_panels,
    strip_panels,
    video_panels,
)

log = logging.getLogger(__name__)

SOURCES_KEPT = 4  # whose work an actor keeps: windows of one clip come together, or nearly
CLIPS_KEPT = 16  # of which a reader keeps what it looked up


@dataclass(frozen=True)
class WindowFrames:
    """A window that has been read; ``seconds`` of work so far.

    Attributes:
        person, source_person: ids of who gives the motion, and of who gives the face.
        fps: frames per second of the driving clip.
        source: (S, S, 3), the frame that gives the face.
        reference: (S, S, 3), the driving frame that relative motion is measured from: the first with a face,
            or the best one; None where there is none.
        frames: (T', S, S, 3), the driving frames; one more than ``landmarks`` where the window begins early.
        landmarks: (T, 68, 2) px, those that came with the data; NaN where a frame has no face.
        source_landmarks: (1, 68, 2) px, of the driving clip's first frame.
    """

    window: Window
    person: str
    source_person: str
    fps: float
    source: RgbImage
    reference: RgbImage | None
    frames: NDArray[np.uint8]
    landmarks: NDArray[np.float32]
    source_landmarks: NDArray[np.float32]
    seconds: float = 0.0


@dataclass(frozen=True)
class AnimatedWindow:
    """A window that the model has seen.

    Attributes:
        read: what it was made of.
        predictions: (T', 3, S, S) float32 in [0, 1]; None in mode mesh.
        estimated: (T, 68, 2) px, the 3DMM's landmarks of the driving frames.
        strip: the panels of the frames that the clip's strip shows.
        video: the panels of every frame, where they are not source, driving frame and prediction.
        files: more files for the clip's folder, by name.
        columns: (T,) each: scores by networks.
        features: Inception features.
        expression: (16,), sums of the movements of landmarks.
    """

    read: WindowFrames
    predictions: NDArray[np.float32] | None
    estimated: NDArray[np.float32]
    strip: tuple[list[Panel], ...] = ()
    video: tuple[list[Panel], ...] = ()
    files: dict[str, bytes] = field(default_factory=dict)
    columns: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    features: Features | None = None
    expression: NDArray[np.float64] | None = None
    seconds: float = 0.0

    @property
    def window(self) -> Window:
        """Which frames of which job."""
        return self.read.window


@dataclass(frozen=True)
class ScoredWindow:
    """A window that is done: scores, and files for the clip's folder.

    Attributes:
        scores: (T, len(SCORES)); None where there is nothing to score.
        files: by name; empty where nothing is shown of the clip.
    """

    window: Window
    person: str
    source_person: str
    fps: float
    scores: ScoreRows | None
    features: Features | None
    files: dict[str, bytes]
    seconds: float
    expression: NDArray[np.float64] | None = None


# ---- read --------------------------------------------------------------------------------------------------


class FrameReader:
    """Reads and decodes the frames of windows."""

    def __init__(self, store: ClipStore, config: EvaluateConfig) -> None:
        self._store, self._transfer = store, config.animation.transfer
        self._info = lru_cache(CLIPS_KEPT)(store.info)
        self._best = lru_cache(CLIPS_KEPT)(self._find_best_frame)
        self._first_face = lru_cache(CLIPS_KEPT)(self._find_first_face)

    def __call__(self, window: Window) -> WindowFrames:
        """Read one window.

        Raises:
            ClipError: a frame cannot be read, or the clips show no face where one is needed.
        """
        began = time.monotonic()
        job, first = window.job, window.first - int(window.begins_early)
        driving, clip = self._info(job.driving), job.driving
        return WindowFrames(
            window=window,
            person=driving.person_id,
            source_person=self._info(job.source).person_id,
            fps=driving.fps,
            source=self._frame(job.source, 0),
            reference=self._reference(window),
            frames=np.stack([self._frame(clip, number) for number in range(first, window.last)]),
            landmarks=self._store.landmark_range(clip, window.first, window.last),
            source_landmarks=self._store.landmark_range(clip, 0, 1),
            seconds=time.monotonic() - began,
        )

    def _frame(self, clip_id: str, number: int) -> RgbImage:
        return self._store.frames(clip_id, [number])[0]

    def _reference(self, window: Window) -> RgbImage | None:
        if window.job.mode != "animation":
            return None
        job = window.job
        if self._transfer.best_frame:
            return self._frame(job.driving, self._best(job.source, job.driving, window.n_frames))
        return self._frame(job.driving, self._first_face(job.driving, window.n_frames))

    def _find_first_face(self, driving: str, n_frames: int) -> int:
        """The first frame with a face; frame 0 of a clip without any landmarks, where nobody has looked."""
        has_face = self._store.has_face(self._info(driving).number)
        if not has_face.any():
            return 0
        faces = np.flatnonzero(has_face[:n_frames])
        if not len(faces):
            raise ClipError(FailureCode.NO_FACE, f"its first {n_frames} frames show no face")
        first = int(faces[0])
        if first and self._transfer.mode == "relative":
            log.info("%s: motion is measured from frame %d, the first with a face", driving, first)
        return first

    def _find_best_frame(self, source: str, driving: str, n_frames: int) -> int:
        try:
            return find_best_frame(
                self._store.landmark_range(source, 0, 1)[0], self._store.landmark_range(driving, 0, n_frames)
            )
        except ValueError as error:
            raise ClipError(FailureCode.NO_FACE, str(error)) from None


# ---- model -------------------------------------------------------------------------------------------------


class WindowModel:
    """Runs the model on windows. The work on a source is done once for all windows of its clips.

    Args:
        mask: where faces are swapped; needed for jobs of mode swap.
    """

    def __init__(self, runner: ModelRunner, config: EvaluateConfig, mask: SwapMask | None = None) -> None:
        self.runner, self._config, self.mask = runner, config, mask
        self._sources: OrderedDict[str, SourceCache] = OrderedDict()

    def __call__(self, read: WindowFrames) -> AnimatedWindow:
        """Reenact or reconstruct the frames of one window."""
        began = time.monotonic()
        made = self._heads(read) if read.window.job.mode == "mesh" else self._reenacted(read)
        return replace(made, seconds=read.seconds + time.monotonic() - began)

    def _reenacted(self, read: WindowFrames) -> AnimatedWindow:
        window, tdmm = read.window, self.runner.model.tdmm
        early, rows = int(window.begins_early), _rows_of_strip(window, self._config)
        predictions: list[NDArray[np.float32]] = []
        estimated: list[NDArray[np.float32]] = []
        strip: list[list[Panel]] = []
        number = window.first - early
        for batch in self._batches(read, self._source(read)):
            predictions.append(batch.result.prediction.float().cpu().numpy())
            points = landmarks_px(tdmm.geometry(batch.face.code), batch.driving.shape[-1]).cpu().numpy()
            estimated.append(points)
            for i in range(len(batch.driving)):
                if number in rows:
                    target = read.landmarks[number - window.first]
                    panel = self._config.visuals.panel
                    strip.append(strip_panels(read.source, batch, i, target, points[i], panel))
                number += 1
        return AnimatedWindow(
            read, np.concatenate(predictions), np.concatenate(estimated)[early:], tuple(strip)
        )

    def _source(self, read: WindowFrames) -> SourceCache:
        name = read.window.job.source
        if name not in self._sources:
            self._sources[name] = self.runner.prepare(read.source)
            if len(self._sources) > SOURCES_KEPT:
                self._sources.popitem(last=False)
        self._sources.move_to_end(name)
        return self._sources[name]

    def _batches(self, read: WindowFrames, cache: SourceCache) -> Iterator[AnimatedBatch]:
        mode = read.window.job.mode
        if mode == "reconstruction":
            return self.runner.reconstruct(cache, read.frames)
        if mode == "swap":
            assert self.mask is not None, "a swap needs a mask"
            own = self._config.swap.source_shape
            return self.runner.swap(cache, read.frames, self.mask, source_shape=own)
        return self.runner.animate(cache, read.frames, self._config.animation.transfer, read.reference)

    def _heads(self, read: WindowFrames) -> AnimatedWindow:
        """Fit the 3D head to the frames; write their table and the meshes that are exported."""
        window, number = read.window, read.window.first
        rows = _rows_of_strip(window, self._config)
        estimated: list[NDArray[np.float32]] = []
        strip: list[list[Panel]] = []
        video: list[list[Panel]] = []
        with tempfile.TemporaryDirectory(prefix="safa-") as scratch:
            with MeshTable(Path(scratch) / MESHES, window.first) as table:
                for batch in reconstruct_heads(self.runner, read.frames):
                    table.add(batch)
                    estimated.append(batch.landmarks.cpu().numpy())
                    self._export(batch, number, window.n_frames, Path(scratch))
                    for i in range(len(batch)):
                        if number in rows:
                            target = read.landmarks[number - window.first]
                            strip.append(mesh_strip_panels(batch, i, target, self._config.visuals.panel))
                        if window.shown:
                            video.append(mesh_video_panels(batch, i))
                        number += 1
            files = {path.name: path.read_bytes() for path in Path(scratch).iterdir()}
        return AnimatedWindow(read, None, np.concatenate(estimated), tuple(strip), tuple(video), files)

    def _export(self, batch: HeadBatch, first: int, n_frames: int, folder: Path) -> None:
        config = self._config.mesh
        exported = chosen_frames(n_frames, config.export_frames) if config.export else ()
        for number in exported:
            if first <= number < first + len(batch):
                mesh = mesh_of(self.runner.model.tdmm, batch, number - first)
                export_mesh(mesh, folder / f"frame{number:06d}", config.export)


def _rows_of_strip(window: Window, config: EvaluateConfig) -> frozenset[int]:
    """Numbers of the frames of this window that the clip's strip shows."""
    if not window.shown:
        return frozenset()
    chosen = chosen_frames(window.n_frames, config.visuals.strip_frames)
    return frozenset(number for number in chosen if window.first <= number < window.last)


# ---- score -------------------------------------------------------------------------------------------------


class WindowNetworks:
    """Scores windows with networks."""

    def __init__(self, scorer: NetworkScorer) -> None:
        self.scorer = scorer

    def __call__(self, made: AnimatedWindow) -> AnimatedWindow:
        """Add columns and features, if there are any."""
        window = made.window
        has_target = window.job.mode == "reconstruction"
        if made.predictions is None or not self.scorer.is_needed(has_target=has_target):
            return made
        began, early = time.monotonic(), int(window.begins_early)
        source = _images(made.read.source[None])
        prediction, target = torch.from_numpy(made.predictions[early:]), _images(made.read.frames[early:])
        features = None
        if has_target:
            counted = int(window.first == 0)  # a clip's first frame is the source
            features = self.scorer.features(source, prediction[counted:], target[counted:])
        columns, expression = self.scorer.scores(
            source, prediction, target, window.first, has_target=has_target
        )
        seconds = made.seconds + time.monotonic() - began
        return replace(made, columns=columns, features=features, expression=expression, seconds=seconds)


class WindowScorer:
    """Scores windows with all that needs no networks, and makes what is shown of them."""

    def __init__(self, config: EvaluateConfig) -> None:
        self._config = config

    def __call__(self, made: AnimatedWindow) -> ScoredWindow:
        """Finish one window."""
        began, read = time.monotonic(), made.read
        scores = self._scores(made)
        files = dict(made.files)
        if read.window.shown:
            files |= clip_visuals(read.window, self._video(made), made.strip, read.fps, self._config.visuals)
        return ScoredWindow(
            *(read.window, read.person, read.source_person, read.fps),
            *(scores, made.features, files),
            made.seconds + time.monotonic() - began,
            made.expression,
        )

    def _scores(self, made: AnimatedWindow) -> ScoreRows | None:
        window = made.window
        count = window.last - window.first
        columns = {key: torch.from_numpy(values) for key, values in made.columns.items()}
        rows = rows_of(columns, count) if columns else None
        if window.job.mode != "reconstruction":
            return rows
        plain = picture_scores(_compared(made))
        if rows is None:
            return plain
        return np.where(np.isnan(plain), rows, plain)

    def _video(self, made: AnimatedWindow) -> Iterator[list[Panel]]:
        if made.predictions is None:
            yield from made.video
            return
        large, early = enlarge(made.read.source, self._config.visuals.panel), int(made.window.begins_early)
        for driving, prediction in zip(made.read.frames[early:], made.predictions[early:], strict=True):
            yield video_panels(large, driving, from_tensor(torch.from_numpy(prediction)))


def _compared(made: AnimatedWindow) -> Compared:
    read, early = made.read, int(made.window.begins_early)
    assert made.predictions is not None
    prediction, target = torch.from_numpy(made.predictions), _images(read.frames)
    return Compared(
        source=_images(read.source[None]),
        prediction=prediction[early:],
        target=target[early:],
        prediction_before=prediction[0] if early else None,
        target_before=target[0] if early else None,
        estimated=torch.from_numpy(made.estimated),
        landmarks=torch.from_numpy(read.landmarks),
        source_landmarks=torch.from_numpy(read.source_landmarks),
    )


def _images(frames: NDArray[np.uint8]) -> Tensor:
    """Frames (T, S, S, 3) as images (T, 3, S, S) in [0, 1]."""
    # (T, S, S, 3) -> (T, 3, S, S), still NHWC in memory
    return torch.tensor(frames).permute(0, 3, 1, 2).float() / 255


class AllStages:
    """All stages, one after the other in this process.

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
        self.reader, self.model = FrameReader(store, config), WindowModel(runner, config, mask)
        batch = config.scale.batch_size
        self.networks = WindowNetworks(NetworkScorer(scorers or Scorers(), runner.device, batch))
        self.scorer = WindowScorer(config)

    def __call__(self, window: Window) -> ScoredWindow:
        """Read a window, run the model on it, and score it.

        Raises:
            ClipError: as ``FrameReader``.
        """
        return self.scorer(self.networks(self.model(self.reader(window))))
