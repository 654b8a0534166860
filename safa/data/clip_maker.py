"""Make clips: crop and scale the frames of a video and encode them, add landmarks, write Parquet.

A clip is made in pieces of at most ``piece_frames`` frames, so that memory does not grow with its length, and
many workers can have a part in it. ``crop_clip`` gives the pieces, ``add_landmarks`` those that need a
network, for pieces of many clips at once, and ``write_piece`` puts them into a shard.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from safa.batching import batched
from safa.config.preprocess import DlibLandmarksConfig, NoLandmarks, PreprocessConfig, SidecarLandmarks
from safa.data.crop import Box, points_in_crop
from safa.data.detectors import LandmarkDetector
from safa.data.images import ImageFolder, decode_image, encode_image
from safa.data.landmarks import Landmarks, no_landmarks, read_sidecar, sidecar_names
from safa.data.schema import FARTHEST
from safa.data.shards import ClipRecord, ShardWriter
from safa.data.sources import ClipJob
from safa.data.video import DecodeError, Span, VideoFrame, VideoInfo, VideoReader
from safa.errors import ClipError, FailureCode
from safa.files import Location, entries, exists, join, write_json
from safa.reading import read_json

log = logging.getLogger(__name__)

DAMAGED = "damaged"  # folder of a run with a record of each clip that was made of a damaged video


@dataclass(frozen=True)
class Piece:
    """Successive frames of a clip, encoded.

    Attributes:
        record: the clip.
        number: of the piece in the clip, from 0.
        first: number of its first frame in the clip.
        images: JPEG or PNG, one a frame.
        last: whether no piece follows.
        landmarks: of these frames, in px of them; None until a network has found them.
    """

    record: ClipRecord
    number: int
    first: int
    images: tuple[bytes, ...]
    last: bool
    landmarks: Landmarks | None = None


@dataclass(frozen=True)
class _Region:
    """The part of a video that becomes a clip: a span of time, and a crop box in the upright frame."""

    span: Span | None
    box: Box


def crop_clip(job: ClipJob, config: PreprocessConfig) -> Iterator[Piece]:
    """Yield the pieces of a clip; they have landmarks unless a network is to find them.

    Raises:
        ClipError: with the reason for the quarantine; pieces that came before it are worth nothing.
    """
    video = Path(job.video)
    try:
        if video.is_dir():
            images = ImageFolder(video, job.fps or config.fps)
            region = _region(job, images.info(), config)
            yield from _pieces(job, config, region, images.frames(config.size, config.fps))
        elif video.is_file():
            with VideoReader(video, tolerant=config.tolerate_damage > 0) as reader:
                region = _region(job, reader.info, config)
                size, rows = (config.size, config.size), _takes_sidecar(config, video)
                frames = reader.frames(span=region.span, box=region.box, size=size, fps=config.fps, rows=rows)
                check_end = partial(_check_damage, job, config, region.span, reader)
                yield from _pieces(job, config, region, frames, check_end)
        else:
            raise ClipError(FailureCode.UNAVAILABLE, f"{video.name} is missing")
    except DecodeError as error:
        raise ClipError(FailureCode.DECODE, str(error)) from None


def _pieces(
    job: ClipJob,
    config: PreprocessConfig,
    region: _Region,
    frames: Generator[VideoFrame, None, None],
    check_end: Callable[[int], None] = lambda count: None,
) -> Iterator[Piece]:
    record = _record(job, config, region)
    landmark_source = _landmark_source(config, region, Path(job.video))
    before: Piece | None = None
    first = 0
    with closing(frames):
        for number, part in enumerate(batched(frames, config.piece_frames)):
            if before is not None:
                yield before
            images = tuple(encode_image(frame.pixels, config.encoding) for frame in part)
            rows = np.array([frame.row for frame in part])
            landmarks = landmark_source(rows) if landmark_source else None
            before = Piece(record, number, first, images, last=False, landmarks=landmarks)
            first += len(part)
    if before is None:
        raise ClipError(FailureCode.TOO_SHORT, "the clip has no frames")
    check_end(first)
    yield replace(before, last=True)


def _check_damage(
    job: ClipJob, config: PreprocessConfig, span: Span | None, reader: VideoReader, count: int
) -> None:
    """Refuse a clip with too many damaged frames; of another one with some, leave a record.

    Args:
        count: stored frames. A damaged one is stored as the good one before it.

    Raises:
        ClipError: ``decode``.
    """
    if not reader.lost:
        return
    begin, end = (span.start / span.fps, span.end / span.fps) if span else (0.0, reader.info.duration)
    expected = round((min(end, reader.info.duration) - begin) * config.fps)
    lost = len(reader.lost) * config.fps / reader.info.fps + max(0, expected - count)  # and a cut tail
    share = min(1.0, lost / max(expected, count))
    if share > config.tolerate_damage:
        what = f"{share:.1%} of its frames are damaged, tolerate_damage is {config.tolerate_damage:.1%}"
        raise ClipError(FailureCode.DECODE, f"{Path(job.video).name}: {what}")
    name = hashlib.sha256(job.clip_id.encode()).hexdigest()[:32]
    record = {"clip_id": job.clip_id, "lost": list(reader.lost), "share": round(share, 6)}
    write_json(join(config.out, DAMAGED, f"{name}.json"), record)


def damaged_clips(out: Location) -> set[str]:
    """Ids of the clips of a run's folder that were made of damaged videos."""
    folder = join(out, DAMAGED)
    files = entries(folder) if exists(folder) else ()
    found = (read_json(entry.location).get("clip_id") for entry in files if not entry.name.startswith("."))
    return {name for name in found if isinstance(name, str)}


def check_clip(config: PreprocessConfig, n_frames: int, n_faces: int) -> None:
    """Refuse a complete clip that is of no use.

    Args:
        n_faces: number of frames with landmarks.

    Raises:
        ClipError: ``too_short`` or ``no_face``.
    """
    if n_frames < config.min_frames:
        raise ClipError(
            FailureCode.TOO_SHORT, f"the clip has {n_frames} frames, at least {config.min_frames} are needed"
        )
    if n_faces == 0 and not isinstance(config.landmarks, NoLandmarks):
        raise ClipError(FailureCode.NO_FACE, f"none of its {n_frames} frames has landmarks")


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
        return _Region(None, box)
    return _Region(Span(job.start, job.end, job.fps), box)


# ---- landmarks ---------------------------------------------------------------------------------------------

# Which frames of the file the frames of a piece (T,) show, to their landmarks.
_LandmarkSource = Callable[[NDArray[np.int64]], Landmarks]


def needs_network(config: PreprocessConfig) -> bool:
    """Whether landmarks are found by a network in the stored frames."""
    return not isinstance(config.landmarks, SidecarLandmarks | NoLandmarks)


def _takes_sidecar(config: PreprocessConfig, video: Path) -> bool:
    """Whether landmarks lie in a file beside the video; ``auto`` uses them where they do."""
    if isinstance(config.landmarks, DlibLandmarksConfig) and config.landmarks.kind == "auto":
        stem = video.name if video.is_dir() else video.stem
        return any(video.with_name(name).is_file() for name in sidecar_names(stem))
    return isinstance(config.landmarks, SidecarLandmarks)


def _landmark_source(config: PreprocessConfig, region: _Region, video: Path) -> _LandmarkSource | None:
    if isinstance(config.landmarks, SidecarLandmarks):
        return _sidecar_landmarks(config, region, video, config.landmarks.folder)
    if _takes_sidecar(config, video):
        return _sidecar_landmarks(config, region, video, None)
    if isinstance(config.landmarks, NoLandmarks):
        return lambda rows: no_landmarks(len(rows))
    return None


def add_landmarks(pieces: Sequence[Piece], detector: LandmarkDetector, batch: int) -> list[Piece]:
    """Find the landmarks of the stored frames of these pieces, which may be of many clips.

    Pieces that have landmarks keep them.

    The network sees what is stored, whatever process it runs in: numbers don't depend on how stages are
    divided among processes.

    Args:
        batch: number of frames that the detector gets at once.
    """
    unmarked = [piece for piece in pieces if piece.landmarks is None]
    if len(unmarked) < len(pieces):
        marked = iter(add_landmarks(unmarked, detector, batch) if unmarked else [])
        return [next(marked) if piece.landmarks is None else piece for piece in pieces]
    frames = chain.from_iterable(map(decode_image, piece.images) for piece in pieces)
    found = [detector(part) for part in batched(frames, batch)]
    points = np.concatenate([landmarks.points for landmarks in found])
    scores = np.concatenate([landmarks.scores for landmarks in found])
    ends = np.cumsum([len(piece.images) for piece in pieces])
    spans = [slice(end - len(piece.images), end) for piece, end in zip(pieces, ends, strict=True)]
    return [
        replace(piece, landmarks=Landmarks(points[span], scores[span]))
        for piece, span in zip(pieces, spans, strict=True)
    ]


def _sidecar_landmarks(
    config: PreprocessConfig, region: _Region, video: Path, folder: Location | None
) -> _LandmarkSource:
    """Landmarks from the sidecar, of the source frame that each stored frame shows, in pixels of the crop."""
    table = read_sidecar(video, folder)

    def look_up(shown: NDArray[np.int64]) -> Landmarks:
        # The map is opened anew: pages of a long one would stay in our memory until it is closed.
        points = read_sidecar(video, folder) if isinstance(table, np.memmap) else table
        landmarks = no_landmarks(len(shown))
        known = shown < len(points)  # the sidecar may end before the video
        if not known.all():
            log.warning("%s: its landmarks end before frame %d, which is shown", video.name, shown.max())
        placed = points_in_crop(np.asarray(points[shown[known]], np.float32), region.box, config.size)
        placed[~np.isfinite(placed).all(axis=(1, 2))] = np.nan  # (N, 68, 2) -> (N,): half a face is none
        if (np.abs(placed) > FARTHEST).any():  # never true of NaN
            raise ClipError(FailureCode.DECODE, f"landmarks of {video.name} lie in no picture")
        landmarks.points[known] = placed
        return landmarks

    return look_up


# ---- rows --------------------------------------------------------------------------------------------------


def write_piece(shard: ShardWriter, piece: Piece) -> int:
    """Add a piece to a shard; returns in how many of its frames a face was found."""
    assert piece.landmarks is not None
    points, scores = piece.landmarks.points, piece.landmarks.scores
    shard.add_piece(piece.record.clip_id, piece.first, piece.images, points, scores)
    shard.keep_piece(piece.record, piece.number, last=piece.last)
    return int(np.isfinite(points).all(axis=(1, 2)).sum())  # (T, 68, 2) -> (T,)


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
