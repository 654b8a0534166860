"""Faces of frame after frame to face tracks: stretches of time in which one face stays in one place.

A face track becomes a clip that is cut with one fixed box, so a face belongs to it only while it overlaps the
face track's first box. All here is arithmetic on boxes; memory does not grow with the length of the video.


XXX A raw video to its face tracks: decode, detect, follow; and the file that keeps what was found."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from safa.batching import batched
from safa.config.preprocess import FaceTrackConfig, VideosSource
from safa.data.crop import Box
from safa.data.detectors import Face, FaceDetector, iou
from safa.data.schema import ClipId, is_safe_name
from safa.data.sources import ClipJob, Listing, contents
from safa.data.video import DecodeError, probe, read_frames
from safa.errors import ClipError, Failure, FailureCode, UserError
from safa.files import Entry, write_json

BORDER = 1.0  # px; a face this near to the frame's edge may go on outside


@dataclass(frozen=True, slots=True)
class FaceTrack:
    """One face over the frames ``start`` to ``end`` (exclusive).

    Attributes:
        first: where it was at the start.
        last: where it was seen last.
        union: the box around all its places; its score is the mean.
        n_faces: frames in which it was seen.
    """

    start: int
    end: int
    first: Face
    last: Face
    union: Face
    n_faces: int

    @property
    def length(self) -> int:
        return self.end - self.start

    def extended(self, number: int, face: Face) -> FaceTrack:
        """With the face of one more frame."""
        union = self.union
        score = (union.score * self.n_faces + face.score) / (self.n_faces + 1)
        around = Face(
            min(union.left, face.left),
            min(union.top, face.top),
            max(union.right, face.right),
            max(union.bottom, face.bottom),
            score,
        )
        return replace(self, end=number + 1, last=face, union=around, n_faces=self.n_faces + 1)


def track_faces(frames: Iterable[Sequence[Face]], config: FaceTrackConfig) -> Iterator[FaceTrack]:
    """Face tracks in the order in which they end.

    In each frame every open face track takes, of the faces that overlap its first box enough, the one that overlaps
    its last place most; the pair that overlaps most is settled first. A face that no face track takes starts one.

    Args:
        frames: the faces of frame 0, 1, ...
    """
    face_tracks: list[FaceTrack] = []
    for number, faces in enumerate(frames):
        full = [face_track for face_track in face_tracks if face_track.length >= config.max_frames]
        lost = [
            face_track
            for face_track in face_tracks
            if number - face_track.end > config.gap and face_track not in full
        ]
        yield from full + lost
        face_tracks = [
            face_track for face_track in face_tracks if face_track not in full and face_track not in lost
        ]
        pairs = _matched(face_tracks, faces, config.min_iou)
        face_tracks = [
            face_track.extended(number, faces[pairs[index]]) if index in pairs else face_track
            for index, face_track in enumerate(face_tracks)
        ]
        taken = set(pairs.values())
        fresh = [face for index, face in enumerate(faces) if index not in taken]
        face_tracks += [FaceTrack(number, number + 1, face, face, face, 1) for face in fresh]
    yield from face_tracks


def _matched(face_tracks: Sequence[FaceTrack], faces: Sequence[Face], min_iou: float) -> dict[int, int]:
    """Index of a face track to index of its face."""
    scored = [
        (iou(face_track.last, face), t, f)
        for t, face_track in enumerate(face_tracks)
        for f, face in enumerate(faces)
        if iou(face_track.first, face) >= min_iou
    ]
    pairs: dict[int, int] = {}
    for _, t, f in sorted(scored, key=lambda entry: -entry[0]):
        if t not in pairs and f not in pairs.values():
            pairs[t] = f
    return pairs


def clip_box(face_track: FaceTrack, frame: tuple[int, int], config: FaceTrackConfig) -> Box:
    """What is cut out for a face track: the square around all its faces, increased at each side, inside the frame.

    Args:
        frame: (height, width) px, in which the faces were found.

    Raises:
        ClipError: ``too_short``, ``border`` or ``too_small``.
    """
    height, width = frame
    union = face_track.union
    if face_track.length < config.min_frames:
        raise ClipError(FailureCode.TOO_SHORT, f"{face_track.length} frames, needed are {config.min_frames}")
    inside = (
        union.left > BORDER
        and union.top > BORDER
        and union.right < width - BORDER
        and union.bottom < height - BORDER
    )
    if config.drop_border and not inside:
        raise ClipError(FailureCode.BORDER, "the face touches the frame's edge")
    side = max(union.right - union.left, union.bottom - union.top) * (1 + 2 * config.increase)
    x, y = (union.left + union.right) / 2, (union.top + union.bottom) / 2
    square = Box(round(x - side / 2), round(y - side / 2), round(x + side / 2), round(y + side / 2))
    box = square.clipped(width, height)
    if box is None or min(box.width, box.height) < config.min_size:
        size = f"{box.width}x{box.height}" if box else "outside the frame"
        raise ClipError(FailureCode.TOO_SMALL, f"the box is {size} px, needed are {config.min_size}")
    return box


VIDEO_ENDINGS = frozenset({".mp4", ".mkv", ".webm", ".mov", ".avi"})


@dataclass(frozen=True)
class Segment:
    """A stretch of frames in which a face was followed: a clip's box, or why it is none."""

    start: int
    end: int
    score: float
    box: tuple[int, int, int, int] | None
    code: str = ""
    detail: str = ""


@dataclass(frozen=True)
class VideoTracks:
    """What was found in a video. Boxes are in a frame of ``width`` x ``height``; frames count at ``fps``."""

    video: str  # file name
    fps: float
    width: int
    height: int
    segments: tuple[Segment, ...]

    @property
    def clips(self) -> tuple[Segment, ...]:
        return tuple(segment for segment in self.segments if segment.box)


def find_face_tracks(video: Path, source: VideosSource, fps: float, detector: FaceDetector) -> VideoTracks:
    """Detect and follow the faces of a video; a few frames are in memory at a time.

    Args:
        fps: rate at which frames are looked at and counted.

    Raises:
        ClipError: ``decode``.
    """
    try:
        info = probe(video)
        factor = min(1.0, source.short_side / min(info.width, info.height))
        small = (max(1, round(info.height * factor)), max(1, round(info.width * factor)))
        frames = read_frames(video, size=small, fps=fps)
        found = _faces(frames, detector, source.detector.batch)
        scale = (info.width / small[1], info.height / small[0])
        scaled = (tuple(face.scaled(*scale) for face in faces) for faces in found)
        face_tracks = sorted(
            track_faces(scaled, source.face_tracks),
            key=lambda face_track: (face_track.start, face_track.first.left),
        )
    except DecodeError as error:
        raise ClipError(FailureCode.DECODE, str(error)) from None
    segments = tuple(_segment(face_track, (info.height, info.width), source) for face_track in face_tracks)
    return VideoTracks(video.name, fps, info.width, info.height, segments)


def _faces(frames: Iterator[Any], detector: FaceDetector, batch: int) -> Iterator[tuple[Face, ...]]:
    for chunk in batched(frames, batch):
        yield from detector.detect(chunk)


def _segment(face_track: FaceTrack, frame: tuple[int, int], source: VideosSource) -> Segment:
    score = round(face_track.union.score, 4)
    try:
        box = clip_box(face_track, frame, source.face_tracks)
    except ClipError as error:
        return Segment(face_track.start, face_track.end, score, None, str(error.code), error.detail)
    return Segment(face_track.start, face_track.end, score, (box.left, box.top, box.right, box.bottom))


# ---- kept in files -----------------------------------------------------------------------------------------


def tracks_file(folder: Path, video: str) -> Path:
    """Where the face tracks of a video of this name are kept."""
    return folder / f"{video}.json"


def write_tracks(folder: Path, face_tracks: VideoTracks) -> None:
    """Keep them, atomically."""
    write_json(tracks_file(folder, face_tracks.video), asdict(face_tracks))


def read_tracks(path: Path) -> VideoTracks:
    """The inverse.

    Raises:
        UserError: the file is damaged.
    """
    try:
        fields = json.loads(path.read_text())
        segments = tuple(
            Segment(**{**segment, "box": tuple(segment["box"]) if segment["box"] else None})
            for segment in fields.pop("segments")
        )
        return VideoTracks(**fields, segments=segments)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"not a file of face tracks ({error})", str(path), "Delete it; the next run makes it again."
        ) from None


# ---- as a source of clips ----------------------------------------------------------------------------------


def raw_videos(source: VideosSource) -> tuple[list[Entry], list[Failure]]:
    """The videos of the folder, and those whose names cannot be part of a clip's.

    Raises:
        UserError: no such folder, or nothing in it.
    """
    videos = [entry for entry in contents(source.folder, "videos") if entry.suffix.lower() in VIDEO_ENDINGS]
    if not videos:
        raise UserError(
            "no videos here", str(source.folder), f"Endings known: {', '.join(sorted(VIDEO_ENDINGS))}."
        )
    good: dict[str, Entry] = {}
    bad = []
    for video in videos:
        if not is_safe_name(video.stem):
            bad.append(
                Failure(video.name, FailureCode.BAD_ROW, "not a name for a video: use letters, digits, _ . -")
            )
        elif video.stem in good:
            bad.append(
                Failure(video.name, FailureCode.DUPLICATE, f"{good[video.stem].name} has the same name")
            )
        else:
            good[video.stem] = video
    return list(good.values()), bad


def list_tracked_clips(source: VideosSource, videos: Sequence[Entry], folder: Path) -> Listing:
    """Clips of the videos whose face tracks are known. A video without a single clip is one refused input."""
    jobs: list[ClipJob] = []
    bad: list[Failure] = []
    for video in videos:
        path = tracks_file(folder, video.name)
        if not path.is_file():
            continue
        face_tracks = read_tracks(path)
        jobs += [_job(video, face_tracks, segment, source.split) for segment in face_tracks.clips]
        if not face_tracks.clips:
            bad.append(_why_none(video, face_tracks))
    return Listing(tuple(jobs), tuple(bad))


def _job(video: Entry, face_tracks: VideoTracks, segment: Segment, split: str) -> ClipJob:
    # Who is seen is not known: every video counts as a person of its own.
    clip = ClipId(video.stem, video.stem, segment.start, segment.end)
    return ClipJob(
        clip_id=_numbered(clip, segment, face_tracks),
        person_id=video.stem,
        video_id=video.stem,
        split=split,
        video=video.where,
        start=segment.start,
        end=segment.end,
        fps=face_tracks.fps,
        box=segment.box,
        width=face_tracks.width,
        height=face_tracks.height,
    )


def _numbered(clip: ClipId, segment: Segment, face_tracks: VideoTracks) -> str:
    """Two faces over the very same frames are two people, and need two ids."""
    twins = [other for other in face_tracks.clips if (other.start, other.end) == (segment.start, segment.end)]
    number = twins.index(segment)
    if number == 0:
        return str(clip)
    return str(ClipId(f"{clip.person_id}.{number + 1}", clip.video_id, clip.start, clip.end))


def _why_none(video: Entry, face_tracks: VideoTracks) -> Failure:
    if not face_tracks.segments:
        return Failure(video.name, FailureCode.NO_FACE, "no face in it")
    longest = max(face_tracks.segments, key=lambda segment: segment.end - segment.start)
    detail = f"the longest of {len(face_tracks.segments)} face tracks: {longest.detail}"
    return Failure(video.name, FailureCode(longest.code), detail)
