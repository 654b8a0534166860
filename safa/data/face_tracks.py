"""Face tracks: in raw videos, the stretches of time in which one face stays about where it was.

Frames are decoded, faces are detected, and detections that overlap from frame to frame are linked to tracks.
A track becomes a clip with one fixed crop box, so a face belongs to it only while it overlaps the track's
first box. Memory does not grow with the length of the video. The tracks of a video are kept in a JSON file,
with the mean embedding of each clip's face, which says who of all videos is one person (``people.py``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from safa.batching import batched
from safa.config.preprocess import FaceTrackConfig, VideosSource
from safa.data.crop import Box
from safa.data.detectors import SAME_BOX, Face, FaceDetector, FaceEmbedder, iou
from safa.data.detectors.loading import of_video
from safa.data.people import Person, SeenClip, find_people, with_splits
from safa.data.schema import ClipId, is_safe_name
from safa.data.sources import ClipJob, Listing, contents
from safa.data.video import DecodeError, VideoFrame, VideoReader
from safa.errors import ClipError, Failure, FailureCode, UserError
from safa.files import Entry, Location, exists, join, shown, write_json
from safa.media_types import COMPANIONS, VIDEOS, is_hidden, is_video, suffix_of
from safa.reading import read_json

BORDER = 1.0  # px; a face this near to the frame's edge may extend beyond it
HIGHEST_RATE = 1000  # frames per second at which a video is read
EMBED_EVERY = 24  # frames, of which one has its faces embedded: 75 ms each with dlib
# So many frames of the shortest clip. A face that was embedded so often is then embedded one time in so many:
# at least once in any clip.
LEAST_EMBEDDED = 3


# ---- linking detections ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FaceTrack:
    """One face over the frames ``start`` to ``end`` (exclusive).

    Attributes:
        first: the first detection.
        last: the latest detection.
        union: the box around all detections, with their mean score.
        n_faces: number of detections; in other frames the face was missed.
        embeddings: (D,) each, of those of them that were embedded.
    """

    start: int
    end: int
    first: Face
    last: Face
    union: Face
    n_faces: int
    embeddings: tuple[NDArray[np.float32], ...] = field(default=(), compare=False)

    @classmethod
    def begun(cls, number: int, face: Face) -> FaceTrack:
        """The track of a face that is new in frame ``number``."""
        return cls(number, number + 1, face, face, face, 1, _embeddings(face))

    @property
    def length(self) -> int:
        return self.end - self.start

    def extended(self, number: int, face: Face) -> FaceTrack:
        """Return the track with the face of one more frame."""
        union = self.union
        score = (union.score * self.n_faces + face.score) / (self.n_faces + 1)
        around = Face(
            min(union.left, face.left),
            min(union.top, face.top),
            max(union.right, face.right),
            max(union.bottom, face.bottom),
            score,
        )
        embeddings = (*self.embeddings, *_embeddings(face))
        return FaceTrack(self.start, number + 1, self.first, face, around, self.n_faces + 1, embeddings)


def _embeddings(face: Face) -> tuple[NDArray[np.float32], ...]:
    return () if face.embedding is None else (face.embedding,)


def track_faces(
    frames: Iterable[Sequence[Face]], config: FaceTrackConfig, cuts: Set[int] = frozenset()
) -> Iterator[FaceTrack]:
    """Link faces to tracks, in the order in which the tracks end.

    In each frame every open track takes, of the faces that overlap its first box enough, the one that
    overlaps its latest box most; pairs are matched from the largest overlap down. A face that is left over
    starts a track.

    Args:
        frames: the faces of frame 0, 1, ...
        cuts: numbers of the frames with which a scene begins: no track continues from the one before.
    """
    open_tracks: list[FaceTrack] = []
    for number, faces in enumerate(frames):
        if number in cuts:
            yield from open_tracks
            open_tracks = []
        full = [track for track in open_tracks if track.length >= config.max_frames]
        lost = [track for track in open_tracks if number - track.end > config.gap and track not in full]
        yield from full + lost
        open_tracks = [track for track in open_tracks if track not in full and track not in lost]
        matches = _matches(open_tracks, faces, config.min_iou)
        open_tracks = [
            track.extended(number, faces[matches[index]]) if index in matches else track
            for index, track in enumerate(open_tracks)
        ]
        matched = set(matches.values())
        rest = [face for index, face in enumerate(faces) if index not in matched]
        open_tracks += [FaceTrack.begun(number, face) for face in rest]
    yield from open_tracks


def _matches(tracks: Sequence[FaceTrack], faces: Sequence[Face], min_iou: float) -> dict[int, int]:
    """Index of a track to index of the face that continues it."""
    scored = [
        (iou(track.last, face), t, f)
        for t, track in enumerate(tracks)
        for f, face in enumerate(faces)
        if iou(track.first, face) >= min_iou
    ]
    matches: dict[int, int] = {}
    for _, t, f in sorted(scored, key=lambda entry: -entry[0]):
        if t not in matches and f not in matches.values():
            matches[t] = f
    return matches


def clip_box(track: FaceTrack, frame: tuple[int, int], config: FaceTrackConfig) -> Box:
    """The crop box of a track: the square around all its faces, enlarged at each side, clipped to the frame.

    Args:
        frame: (height, width) px of the frames in which the faces were detected.

    Raises:
        ClipError: ``too_short``, ``border`` or ``too_small``.
    """
    height, width = frame
    union = track.union
    if track.length < config.min_frames:
        raise ClipError(
            FailureCode.TOO_SHORT, f"{track.length} frames, at least {config.min_frames} are needed"
        )
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
        raise ClipError(FailureCode.TOO_SMALL, f"the box is {size} px, at least {config.min_size} are needed")
    return box


# ---- tracks of a video -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Segment:
    """The frames ``start`` to ``end`` (exclusive) of a track: a clip with its box, or why it is none.

    ``embedding`` is the mean over those frames of a clip that were embedded.
    """

    start: int
    end: int
    score: float
    box: tuple[int, int, int, int] | None  # left, top, right, bottom; None: not a clip
    code: str = ""  # a ``FailureCode``, if it is not a clip
    detail: str = ""
    embedding: tuple[float, ...] | None = None


@dataclass(frozen=True)
class VideoTracks:
    """All tracks of a video. Boxes are in a frame of ``width`` x ``height`` px, frame numbers at ``fps``."""

    video: str  # file name
    fps: float
    width: int
    height: int
    segments: tuple[Segment, ...]

    @property
    def clips(self) -> tuple[Segment, ...]:
        """The segments that become clips."""
        return tuple(segment for segment in self.segments if segment.box)


def find_face_tracks(
    video: Path,
    source: VideosSource,
    fps: float,
    detector: FaceDetector,
    embedder: FaceEmbedder | None = None,
) -> VideoTracks:
    """Detect and track the faces of a video; only a few frames are in memory at a time.

    Args:
        fps: rate at which frames are read and counted.
        embedder: says who is seen, in every ``EMBED_EVERY``-th frame; None: nobody does.

    Raises:
        ClipError: ``decode``.
    """
    try:
        with VideoReader(video) as reader:
            info, cuts = reader.info, set[int]()
            factor = min(1.0, source.short_side / min(info.width, info.height))
            small = (max(1, round(info.height * factor)), max(1, round(info.width * factor)))
            frames = reader.frames(size=small, fps=fps, scene_cut=source.face_tracks.scene_cut)
            tracking = of_video(detector, source.face_tracks.search_every)
            detections = _detect(frames, cuts, tracking, source, embedder)
            scale = (info.width / small[1], info.height / small[0])
            faces = (tuple(face.scaled(*scale) for face in found) for found in detections)
            tracks = sorted(
                track_faces(faces, source.face_tracks, cuts),
                key=lambda track: (track.start, track.first.left),
            )
    except DecodeError as error:
        raise ClipError(FailureCode.DECODE, str(error)) from None
    segments = tuple(_segment(track, (info.height, info.width), source) for track in tracks)
    return VideoTracks(video.name, fps, info.width, info.height, segments)


def _detect(
    frames: Iterator[VideoFrame],
    cuts: set[int],
    detector: FaceDetector,
    source: VideosSource,
    embedder: FaceEmbedder | None,
) -> Iterator[tuple[Face, ...]]:
    """Yield the faces of each frame; the numbers of those that begin a scene are in ``cuts`` before that."""
    every = max(1, min(EMBED_EVERY, source.face_tracks.min_frames // LEAST_EMBEDDED))
    first, known = 0, _Embedded()
    for chunk in batched(frames, source.detector.batch):
        cuts.update(number for number, frame in enumerate(chunk, first) if frame.begins_scene)
        found = detector.detect([frame.pixels for frame in chunk])
        for number, (frame, faces) in enumerate(zip(chunk, found, strict=True), first):
            if frame.begins_scene:  # other people may be in the same places
                known = _Embedded()
            if embedder is None or not faces or number % every:
                yield faces
                continue
            chosen, others = known.divide(faces)
            embeddings = embedder(frame.pixels, chosen) if chosen else ()
            with_embeddings = zip(chosen, embeddings, strict=True)
            yield (*(replace(face, embedding=each) for face, each in with_embeddings), *others)
        first += len(chunk)


class _Embedded:
    """Which faces were embedded how often, by their places."""

    def __init__(self) -> None:
        self._times: list[tuple[Face, int]] = []

    def divide(self, faces: Sequence[Face]) -> tuple[list[Face], list[Face]]:
        """Divide the faces of the next frame that counts into those to embed, and those known well enough."""
        times = [(face, self._seen(face)) for face in faces]
        self._times = [(face, before + 1) for face, before in times]
        chosen = [face for face, n in times if n < LEAST_EMBEDDED or n % LEAST_EMBEDDED == 0]
        return chosen, [face for face in faces if face not in chosen]

    def _seen(self, face: Face) -> int:
        return max((times for other, times in self._times if iou(face, other) >= SAME_BOX), default=0)


def _segment(track: FaceTrack, frame: tuple[int, int], source: VideosSource) -> Segment:
    score = round(track.union.score, 4)
    try:
        box = clip_box(track, frame, source.face_tracks)
    except ClipError as error:
        return Segment(track.start, track.end, score, None, str(error.code), error.detail)
    corners = (box.left, box.top, box.right, box.bottom)
    mean = np.mean(track.embeddings, axis=0).tolist() if track.embeddings else None
    embedding = None if mean is None else tuple(round(value, 5) for value in mean)
    return Segment(track.start, track.end, score, corners, embedding=embedding)


# ---- files of tracks ---------------------------------------------------------------------------------------


def tracks_file(folder: Location, video: str) -> Location:
    """Where the face tracks of a video of this name are."""
    return join(folder, f"{video}.json")


def write_tracks(folder: Location, tracks: VideoTracks) -> None:
    """Write the face tracks of a video to its file, atomically."""
    write_json(tracks_file(folder, tracks.video), asdict(tracks))


def read_tracks(path: Location) -> VideoTracks:
    """Read what ``write_tracks`` wrote.

    Raises:
        UserError: the file is damaged.
    """
    try:
        fields = read_json(path)
        segments = tuple(_read_segment(segment) for segment in fields.pop("segments"))
        tracks = VideoTracks(**fields, segments=segments)
        _check_tracks(tracks)
        return tracks
    except (UserError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"not a file of face tracks ({error})", shown(path), "Delete it; the next run writes it anew."
        ) from None


def _check_tracks(tracks: VideoTracks) -> None:
    """Refuse values that no video has, of the right types or not.

    Raises:
        ValueError, TypeError: one is there.
    """
    if not 0 < tracks.fps <= HIGHEST_RATE or not isinstance(tracks.video, str):
        raise ValueError(f"a video at {tracks.fps!r} frames per second")
    for segment in tracks.segments:
        corners = segment.box or (0, 0, 1, 1)
        numbers = (tracks.width, tracks.height, segment.start, segment.end, *corners)
        if any(type(number) is not int for number in numbers):
            raise ValueError("a number that is not whole")
        left, top, right, bottom = corners
        if not (0 <= left < right <= tracks.width and 0 <= top < bottom <= tracks.height):
            raise ValueError(f"a box {corners} in {tracks.width} x {tracks.height} px")
        if not 0 <= segment.start < segment.end < 10**9 or not math.isfinite(segment.score):
            raise ValueError(f"frames {segment.start} to {segment.end}")
        if segment.box is None:
            FailureCode(segment.code)


def _read_segment(fields: dict[str, Any]) -> Segment:
    tuples = {name: tuple(fields[name]) if fields.get(name) else None for name in ("box", "embedding")}
    embedding = tuples["embedding"] or ()
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in embedding):
        raise ValueError("an embedding is not made of numbers")
    return Segment(**{**fields, **tuples})


# ---- as a source of clips ----------------------------------------------------------------------------------


def raw_videos(source: VideosSource) -> tuple[list[Entry], list[Failure]]:
    """List the videos of the folder, and apart from them whatever else is there, with the reason.

    Raises:
        UserError: no such folder, or no videos in it.
    """
    there = [entry for entry in contents(source.folder, "videos") if not is_hidden(entry.name)]
    videos = [entry for entry in there if not entry.is_folder and is_video(entry.name)]
    if not videos:
        raise UserError("no videos here", shown(source.folder), f"Known suffixes: {', '.join(VIDEOS)}.")
    others = [entry for entry in there if entry not in videos and suffix_of(entry.name) not in COMPANIONS]
    good: dict[str, Entry] = {}
    bad = [Failure(entry.name, FailureCode.BAD_ROW, "is no kind of video that is read") for entry in others]
    for video in videos:
        if not is_safe_name(video.stem):
            bad.append(
                Failure(video.name, FailureCode.BAD_ROW, "unsuitable file name; use letters, digits, _ . -")
            )
        elif video.stem in good:
            bad.append(
                Failure(video.name, FailureCode.DUPLICATE, f"{good[video.stem].name} has the same name")
            )
        else:
            good[video.stem] = video
    return list(good.values()), bad


def list_tracked_clips(
    source: VideosSource, videos: Sequence[Entry], folder: Location, known: Sequence[Person] = ()
) -> Listing:
    """List the clips of the videos whose face tracks are known; a video without any clip is a failure.

    Args:
        folder: of the face tracks.
        known: people of earlier runs.
    """
    clips: list[tuple[SeenClip, ClipJob]] = []
    bad: list[Failure] = []
    for video in videos:
        path = tracks_file(folder, video.name)
        if not exists(path):
            continue
        tracks = read_tracks(path)
        clips += [(_seen(video, tracks, each, source), _job(video, tracks, each)) for each in tracks.clips]
        if not tracks.clips:
            bad.append(_why_none(video, tracks))
    people = find_people((clip for clip, _ in clips), known)
    if source.split == "auto":
        people = with_splits(people, source.held_out)
    else:
        people = [replace(person, split=person.split or source.split) for person in people]
    person_of = {key: person for person in people for key in person.clips}
    jobs = (_of_person(job, person_of[clip.key], source) for clip, job in clips)
    return Listing(tuple(jobs), tuple(bad), tuple(people))


def _seen(video: Entry, tracks: VideoTracks, segment: Segment, source: VideosSource) -> SeenClip:
    twins = [other for other in tracks.clips if (other.start, other.end) == (segment.start, segment.end)]
    embedding = None
    if segment.embedding is not None and source.identity is not None:
        embedding = np.asarray(segment.embedding, np.float32)
    return SeenClip(video.stem, segment.start, segment.end, twins.index(segment), embedding)


def _job(video: Entry, tracks: VideoTracks, segment: Segment) -> ClipJob:
    """The clip, of nobody yet."""
    return ClipJob(
        clip_id="",
        person_id="",
        video_id=video.stem,
        split="",
        video=video.location,
        start=segment.start,
        end=segment.end,
        fps=tracks.fps,
        box=segment.box,
        width=tracks.width,
        height=tracks.height,
    )


def _of_person(job: ClipJob, person: Person, source: VideosSource) -> ClipJob:
    assert job.end is not None
    clip = ClipId(person.name, job.video_id, job.start, job.end)
    split = person.split if source.split == "auto" else source.split
    return replace(job, clip_id=str(clip), person_id=person.name, split=split)


def _why_none(video: Entry, tracks: VideoTracks) -> Failure:
    if not tracks.segments:
        return Failure(video.name, FailureCode.NO_FACE, "no face was detected")
    longest = max(tracks.segments, key=lambda segment: segment.end - segment.start)
    detail = f"the longest of {len(tracks.segments)} face tracks: {longest.detail}"
    return Failure(video.name, FailureCode(longest.code), detail)
