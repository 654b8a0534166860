"""Make one clip: crop and scale the frames of a video, encode them, add landmarks, write Parquet.

Memory is bounded by one piece of frames, however long the clip is.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from safa.batching import batched
from safa.config.preprocess import NoLandmarks, PreprocessConfig, SidecarLandmarks
from safa.data.crop import Box, points_in_crop
from safa.data.images import ImageFolder, encode_image
from safa.data.landmarks import Landmarks, read_sidecar, source_frames_at
from safa.data.schema import NUM_LANDMARKS
from safa.data.shards import ClipRecord, ShardWriter
from safa.data.sources import ClipJob
from safa.data.video import DecodeError, Frame, Span, VideoInfo, probe, read_frames
from safa.errors import ClipError, FailureCode

SAME_RATE = 1e-4  # relative; 25 and 24.9999 count frames alike, 30 and 29.97 don't


# Stored frames to their landmarks, e.g. a face detector with a landmark network.
LandmarkDetector = Callable[[Sequence[Frame]], Landmarks]


@dataclass(frozen=True)
class _Region:
    """The part of a video that becomes a clip: a span of time, and a crop box in the upright frame."""

    span: Span | None
    box: Box
    fps: float  # at which the clip's start and end are counted
    source_fps: float  # of the file; sidecars have a row for each of its frames
    first: int  # the clip's first frame, at ``fps``

    def source_frames(self, stored: NDArray[np.int64], fps: float) -> NDArray[np.int64]:
        """Which frames of the file the stored frames show; ``fps`` is theirs."""
        counted = self.first + source_frames_at(stored, self.fps, fps)
        same = abs(self.source_fps / self.fps - 1) < SAME_RATE
        return counted if same else source_frames_at(counted, self.source_fps, self.fps)


def make_clip(
    job: ClipJob, config: PreprocessConfig, shard: ShardWriter, detector: LandmarkDetector | None = None
) -> int:
    """Add a clip to a shard; returns the number of stored frames.

    Args:
        shard: keeps the clip; of one that fails, the rows that were written are dropped.
        detector: finds landmarks in stored frames; needed unless the config takes them from sidecars.

    Raises:
        ClipError: with the reason for the quarantine.
    """
    video = Path(job.video)
    try:
        if video.is_dir():
            images = ImageFolder(video, job.fps or config.fps)
            region = _region(job, images.info(), config)
            frames = images.frames(config.size, config.fps)
        elif video.is_file():
            region = _region(job, probe(video), config)
            size = (config.size, config.size)
            frames = read_frames(video, span=region.span, box=region.box, size=size, fps=config.fps)
        else:
            raise ClipError(FailureCode.UNAVAILABLE, f"{video.name} is missing")
        landmark_source = _landmark_source(config, region, video, detector)
        return _store(job, config, region, frames, landmark_source, shard)
    except DecodeError as error:
        raise ClipError(FailureCode.DECODE, str(error)) from None


def _region(job: ClipJob, info: VideoInfo, config: PreprocessConfig) -> _Region:
    listed = Box(*job.box) if job.box else Box(0, 0, info.width, info.height)
    if job.width and job.height:
        # Boxes are listed for one resolution, and the video may have another.
        listed = listed.scaled(info.width / job.width, info.height / job.height)
    box = listed.clipped(info.width, info.height)
    inside = box.width * box.height / (listed.width * listed.height) if box else 0.0
    if box is None or inside < 1 - config.max_outside:
        raise ClipError(
            FailureCode.BORDER, f"only {inside:.0%} of the box lies inside {info.width}x{info.height}"
        )
    if min(box.width, box.height) < config.min_box:
        raise ClipError(
            FailureCode.TOO_SMALL,
            f"the box is {box.width}x{box.height} px, at least {config.min_box} are needed",
        )
    if job.fps is None or job.end is None:
        return _Region(None, box, info.fps, info.fps, 0)
    return _Region(Span(job.start, job.end, job.fps), box, job.fps, info.fps, job.start)


# ---- landmarks ---------------------------------------------------------------------------------------------

# A piece of stored frames and the number of its first frame, to landmarks.
_LandmarkSource = Callable[[list[Frame], int], Landmarks]


def _landmark_source(
    config: PreprocessConfig, region: _Region, video: Path, detector: LandmarkDetector | None
) -> _LandmarkSource:
    if isinstance(config.landmarks, SidecarLandmarks):
        return _sidecar_landmarks(config, region, video, config.landmarks.folder)
    if isinstance(config.landmarks, NoLandmarks):
        return lambda piece, first: _no_landmarks(len(piece))
    assert detector is not None, "these settings need a landmark detector"
    return lambda piece, first: detector(piece)


def _no_landmarks(count: int) -> Landmarks:
    return Landmarks(
        np.full((count, NUM_LANDMARKS, 2), np.nan, np.float32), np.full(count, np.nan, dtype=np.float32)
    )


def _sidecar_landmarks(
    config: PreprocessConfig, region: _Region, video: Path, folder: Path | None
) -> _LandmarkSource:
    """Landmarks from the sidecar, of the source frame that each stored frame shows, in pixels of the crop."""
    table = read_sidecar(video, folder)

    def look_up(piece: list[Frame], first: int) -> Landmarks:
        # The map is opened anew: pages of a long one would stay in our memory until it is closed.
        points = read_sidecar(video, folder) if isinstance(table, np.memmap) else table
        shown = region.source_frames(np.arange(first, first + len(piece)), config.fps)
        landmarks = _no_landmarks(len(piece))
        known = shown < len(points)  # the sidecar may end before the video
        landmarks.points[known] = points_in_crop(
            np.asarray(points[shown[known]], np.float32), region.box, config.size
        )
        return landmarks

    return look_up


# ---- rows --------------------------------------------------------------------------------------------------


def _store(
    job: ClipJob,
    config: PreprocessConfig,
    region: _Region,
    frames: Generator[Frame, None, None],
    landmark_source: _LandmarkSource,
    shard: ShardWriter,
) -> int:
    n_frames = n_faces = 0
    try:
        with closing(frames):
            for piece in batched(frames, config.piece_frames):
                landmarks = landmark_source(piece, n_frames)
                images = [encode_image(frame, config.encoding) for frame in piece]
                shard.add_piece(job.clip_id, n_frames, images, landmarks.points, landmarks.scores)
                n_frames += len(piece)
                n_faces += int(np.isfinite(landmarks.points).all(axis=(1, 2)).sum())
        _check(config, n_frames, n_faces)
    except BaseException:
        shard.drop()
        raise
    shard.keep(_record(job, config, region))
    return n_frames


def _check(config: PreprocessConfig, n_frames: int, n_faces: int) -> None:
    if n_frames < config.min_frames:
        raise ClipError(
            FailureCode.TOO_SHORT, f"the clip has {n_frames} frames, at least {config.min_frames} are needed"
        )
    if n_faces == 0 and not isinstance(config.landmarks, NoLandmarks):
        raise ClipError(FailureCode.NO_FACE, f"none of its {n_frames} frames has landmarks")


def _record(job: ClipJob, config: PreprocessConfig, region: _Region) -> ClipRecord:
    box = region.box
    return ClipRecord(
        clip_id=job.clip_id,
        person_id=job.person_id,
        video_id=job.video_id,
        split=job.split,
        start=job.start,
        end=job.end,
        fps=config.fps,
        height=config.size,
        width=config.size,
        bbox=(box.left, box.top, box.right, box.bottom),
        source=Path(job.video).name,
    )
