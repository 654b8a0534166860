"""From one job to one stored clip: cut, crop, scale, encode, landmarks, Parquet.

Memory is bounded by one piece of encoded frames, however long the clip.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from safa.config.preprocess import PreprocessConfig
from safa.data.crop import Box, points_in_crop
from safa.data.images import encode_image
from safa.data.landmarks import Points, read_sidecar, shown_frames
from safa.data.schema import CLIP_SCHEMA, NUM_LANDMARKS, Code, Refused
from safa.data.sources import ClipJob
from safa.data.video import DecodeError, Frame, Span, VideoInfo, probe, read_frames


@dataclass(frozen=True)
class _Cut:
    """What is taken from the video: a part of its time, and a box in its upright frame."""

    span: Span | None
    box: Box
    source_fps: float
    first: int  # the span's first frame in the video


def make_clip(job: ClipJob, config: PreprocessConfig) -> int:
    """Write ``clips/split=*/<clip id>.parquet``, whole or not at all; returns the number of stored frames.

    Raises:
        Refused: with the reason for the quarantine.
    """
    video = Path(job.video)
    if not video.is_file():
        raise Refused(Code.UNAVAILABLE, f"{video.name} is missing")
    try:
        info = probe(video)
        cut = _plan(job, info, config)
        points = _landmarks(video, cut, config)
        return _store(job, config, cut, points, video)
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
        return _Cut(None, box, info.fps, 0)
    return _Cut(Span(job.start, job.end, job.fps), box, job.fps, job.start)


def _landmarks(video: Path, cut: _Cut, config: PreprocessConfig) -> Points:
    """Of every source frame of the cut, in pixels of the stored frames."""
    # Sidecars count the video's own frames; the list's reference rate is the rate they were made at.
    points = read_sidecar(video)[cut.first : cut.span.end if cut.span else None]
    if not np.isfinite(points).all(axis=(1, 2)).any():
        raise Refused(Code.NO_FACE, f"none of {len(points)} frames has landmarks")
    return points_in_crop(points, cut.box, config.size)


def _store(job: ClipJob, config: PreprocessConfig, cut: _Cut, points: Points, video: Path) -> int:
    folder = config.out / "clips" / f"split={job.split}"
    folder.mkdir(parents=True, exist_ok=True)
    # A name that no reader globs, of this process alone: two attempts at one clip don't meet.
    part = folder / f".{job.clip_id}.{os.getpid()}.part"
    frames = read_frames(video, span=cut.span, box=cut.box, size=(config.size, config.size), fps=config.fps)
    n_frames = 0
    try:
        with pq.ParquetWriter(part, CLIP_SCHEMA, compression="none") as writer:  # pictures don't shrink again
            for number, piece in enumerate(_pieces(frames, config.piece_frames)):
                shown = shown_frames(n_frames + len(piece), cut.source_fps, config.fps)[n_frames:]
                row = _row(job, config, cut, number, piece, _at(points, shown))
                writer.write_table(pa.Table.from_pylist([row], schema=CLIP_SCHEMA))
                n_frames += len(piece)
        if n_frames < config.min_frames:
            raise Refused(Code.TOO_SHORT, f"{n_frames} frames, needed are {config.min_frames}")
        part.replace(folder / f"{job.clip_id}.parquet")
    finally:
        frames.close()
        part.unlink(missing_ok=True)
    return n_frames


def _pieces(frames: Iterator[Frame], length: int) -> Iterator[list[Frame]]:
    while piece := list(islice(frames, length)):
        yield piece


def _at(points: Points, shown: np.ndarray) -> Points:
    """Landmarks of the frames that are shown; NaN where the sidecar has no such frame."""
    found = np.full((len(shown), NUM_LANDMARKS, 2), np.nan, dtype=np.float32)
    known = shown < len(points)
    found[known] = points[shown[known]]
    return found


def _row(
    job: ClipJob, config: PreprocessConfig, cut: _Cut, number: int, piece: list[Frame], points: Points
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
        "landmarks": points.reshape(len(points), -1).tolist(),
        "face_score": [float("nan")] * len(piece),
        "bbox": [box.left, box.top, box.right, box.bottom],
        "source": job.video,
    }
