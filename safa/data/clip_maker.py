"""From one job to one stored clip: cut, crop, scale, encode, landmarks, Parquet.

Memory is bounded by one piece of frames, however long the clip.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from safa.config.preprocess import NoLandmarks, PreprocessConfig, SidecarLandmarks
from safa.data.crop import Box, points_in_crop
from safa.data.images import encode_image
from safa.data.landmarks import Marked, read_sidecar, shown_at
from safa.data.picture_folder import PictureFolder
from safa.data.schema import CLIP_SCHEMA, NUM_LANDMARKS, Code, Refused
from safa.data.sources import ClipJob
from safa.data.video import DecodeError, Frame, Span, VideoInfo, probe, read_frames

SAME_RATE = 1e-4  # relative; 25 and 24.9999 count frames alike, 30 and 29.97 don't


# Stored frames to their landmarks: what a face detector with landmarks does.
FindLandmarks = Callable[[Sequence[Frame]], Marked]


@dataclass(frozen=True)
class _Cut:
    """What is taken: a part of the time, and a box in the upright frame."""

    span: Span | None
    box: Box
    fps: float  # at which the clip's start and end count
    source_fps: float  # of the file, whose frames sidecars count
    first: int  # the clip's first frame, at ``fps``

    def source_frames(self, stored: NDArray[np.int64], fps: float) -> NDArray[np.int64]:
        """Which frames of the file the stored frames show; ``fps`` is theirs."""
        counted = self.first + shown_at(stored, self.fps, fps)
        same = abs(self.source_fps / self.fps - 1) < SAME_RATE
        return counted if same else shown_at(counted, self.source_fps, self.fps)


def make_clip(job: ClipJob, config: PreprocessConfig, find: FindLandmarks | None = None) -> int:
    """Write ``clips/split=*/<clip id>.parquet``, whole or not at all; returns the number of stored frames.

    Args:
        find: finds landmarks in stored frames; needed unless the config takes them from sidecars.

    Raises:
        Refused: with the reason for the quarantine.
    """
    video = Path(job.video)
    try:
        if video.is_dir():
            pictures = PictureFolder(video, job.fps or config.fps)
            cut = _plan(job, pictures.info(), config)
            frames = pictures.frames(config.size, config.fps)
        elif video.is_file():
            cut = _plan(job, probe(video), config)
            size = (config.size, config.size)
            frames = read_frames(video, span=cut.span, box=cut.box, size=size, fps=config.fps)
        else:
            raise Refused(Code.UNAVAILABLE, f"{video.name} is missing")
        return _store(job, config, cut, frames, _marker(config, cut, video, find))
    except DecodeError as error:
        raise Refused(Code.DECODE, str(error)) from None


def _plan(job: ClipJob, info: VideoInfo, config: PreprocessConfig) -> _Cut:
    listed = Box(*job.box) if job.box else Box(0, 0, info.width, info.height)
    if job.width and job.height:
        # Boxes are listed for one resolution, the video may have come in another.
        listed = listed.scaled(info.width / job.width, info.height / job.height)
    box = listed.clipped(info.width, info.height)
    inside = box.width * box.height / (listed.width * listed.height) if box else 0.0
    if box is None or inside < 1 - config.max_outside:
        raise Refused(Code.BORDER, f"only {inside:.0%} of the box lies inside {info.width}x{info.height}")
    if min(box.width, box.height) < config.min_box:
        raise Refused(Code.TOO_SMALL, f"the box is {box.width}x{box.height} px, needed are {config.min_box}")
    if job.fps is None or job.end is None:
        return _Cut(None, box, info.fps, info.fps, 0)
    return _Cut(Span(job.start, job.end, job.fps), box, job.fps, info.fps, job.start)


# ---- landmarks ---------------------------------------------------------------------------------------------

# A piece of stored frames and the number of its first one, to landmarks.
_Marker = Callable[[list[Frame], int], Marked]


def _marker(config: PreprocessConfig, cut: _Cut, video: Path, find: FindLandmarks | None) -> _Marker:
    if isinstance(config.landmarks, SidecarLandmarks):
        return _sidecar_marker(config, cut, video, config.landmarks.folder)
    if isinstance(config.landmarks, NoLandmarks):
        return lambda piece, first: _unmarked(len(piece))
    assert find is not None, "landmarks are to be found, but nothing finds them"
    return lambda piece, first: find(piece)


def _unmarked(count: int) -> Marked:
    return Marked(
        np.full((count, NUM_LANDMARKS, 2), np.nan, np.float32), np.full(count, np.nan, dtype=np.float32)
    )


def _sidecar_marker(config: PreprocessConfig, cut: _Cut, video: Path, folder: Path | None) -> _Marker:
    """Landmarks of the file's frames, looked up by what each stored frame shows, moved into the cut."""
    table = read_sidecar(video, folder)

    def mark(piece: list[Frame], first: int) -> Marked:
        # A map is opened afresh: the pages that a long one touches would count as ours until it is closed.
        points = read_sidecar(video, folder) if isinstance(table, np.memmap) else table
        shown = cut.source_frames(np.arange(first, first + len(piece)), config.fps)
        marked = _unmarked(len(piece))
        known = shown < len(points)  # the sidecar may end before the video
        marked.points[known] = points_in_crop(
            np.asarray(points[shown[known]], np.float32), cut.box, config.size
        )
        return marked

    return mark


# ---- rows --------------------------------------------------------------------------------------------------


def _store(
    job: ClipJob,
    config: PreprocessConfig,
    cut: _Cut,
    frames: Generator[Frame, None, None],
    mark: _Marker,
) -> int:
    folder = config.out / "clips" / f"split={job.split}"
    folder.mkdir(parents=True, exist_ok=True)
    # A name that no reader globs, of this process alone: two attempts at one clip don't meet.
    part = folder / f".{job.clip_id}.{os.getpid()}.part"
    n_frames = n_faces = 0
    try:
        with pq.ParquetWriter(part, CLIP_SCHEMA, compression="none") as writer:  # pictures don't shrink again
            for number, piece in enumerate(_pieces(frames, config.piece_frames)):
                marked = mark(piece, n_frames)
                row = _row(job, config, cut, number, piece, marked)
                writer.write_table(pa.Table.from_pylist([row], schema=CLIP_SCHEMA))
                n_frames += len(piece)
                n_faces += int(np.isfinite(marked.points).all(axis=(1, 2)).sum())
        _check(config, n_frames, n_faces)
        part.replace(folder / f"{job.clip_id}.parquet")
    finally:
        frames.close()
        part.unlink(missing_ok=True)
    return n_frames


def _check(config: PreprocessConfig, n_frames: int, n_faces: int) -> None:
    if n_frames < config.min_frames:
        raise Refused(
            Code.TOO_SHORT, f"the video has {n_frames} frames of it, needed are {config.min_frames}"
        )
    if n_faces == 0 and not isinstance(config.landmarks, NoLandmarks):
        raise Refused(Code.NO_FACE, f"none of {n_frames} frames has landmarks")


def _pieces(frames: Iterator[Frame], length: int) -> Iterator[list[Frame]]:
    while piece := list(islice(frames, length)):
        yield piece


def _row(
    job: ClipJob, config: PreprocessConfig, cut: _Cut, number: int, piece: list[Frame], marked: Marked
) -> dict[str, Any]:
    box = cut.box
    return {
        "clip_id": job.clip_id,
        "person_id": job.person_id,
        "video_id": job.video_id,
        "split": job.split,
        "start": job.start,
        "end": job.end,
        "piece": number,
        "n_frames": len(piece),
        "fps": config.fps,
        "height": config.size,
        "width": config.size,
        "frames": [encode_image(frame, config.encoding) for frame in piece],
        "landmarks": marked.points.reshape(len(piece), -1).tolist(),
        "face_score": marked.scores.tolist(),
        "bbox": [box.left, box.top, box.right, box.bottom],
        "source": Path(job.video).name,
    }
