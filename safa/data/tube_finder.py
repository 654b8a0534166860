"""A raw video to its tubes: decode, detect, follow; and the file that keeps what was found."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from safa.config.preprocess import VideosSource
from safa.data.clip_id import ClipId, is_safe_name
from safa.data.faces import Face, FaceDetector
from safa.data.places import Entry
from safa.data.schema import Code, Refused
from safa.data.sources import BadRow, ClipJob, Listing, contents
from safa.data.tubes import Tube, clip_box, follow
from safa.data.video import DecodeError, probe, read_frames
from safa.errors import UserError

VIDEO_ENDINGS = frozenset({".mp4", ".mkv", ".webm", ".mov", ".avi"})


@dataclass(frozen=True)
class Stretch:
    """A stretch of frames in which a face was followed: a clip's box, or why it is none."""

    start: int
    end: int
    score: float
    box: tuple[int, int, int, int] | None
    code: str = ""
    detail: str = ""


@dataclass(frozen=True)
class VideoTubes:
    """What was found in a video. Boxes are in a frame of ``width`` x ``height``; frames count at ``fps``."""

    video: str  # file name
    fps: float
    width: int
    height: int
    stretches: tuple[Stretch, ...]

    @property
    def clips(self) -> tuple[Stretch, ...]:
        return tuple(stretch for stretch in self.stretches if stretch.box)


def find_tubes(video: Path, source: VideosSource, fps: float, detector: FaceDetector) -> VideoTubes:
    """Detect and follow the faces of a video; a few frames are in memory at a time.

    Args:
        fps: rate at which frames are looked at and counted.

    Raises:
        Refused: ``decode``.
    """
    try:
        info = probe(video)
        factor = min(1.0, source.short_side / min(info.width, info.height))
        small = (max(1, round(info.height * factor)), max(1, round(info.width * factor)))
        frames = read_frames(video, size=small, fps=fps)
        found = _faces(frames, detector, source.detector.batch)
        scale = (info.width / small[1], info.height / small[0])
        scaled = (tuple(face.scaled(*scale) for face in faces) for faces in found)
        tubes = sorted(follow(scaled, source.tubes), key=lambda tube: (tube.start, tube.first.left))
    except DecodeError as error:
        raise Refused(Code.DECODE, str(error)) from None
    judged = tuple(_judged(tube, (info.height, info.width), source) for tube in tubes)
    return VideoTubes(video.name, fps, info.width, info.height, judged)


def _faces(frames: Iterator[Any], detector: FaceDetector, batch: int) -> Iterator[tuple[Face, ...]]:
    while piece := list(islice(frames, batch)):
        yield from detector.detect(piece)


def _judged(tube: Tube, frame: tuple[int, int], source: VideosSource) -> Stretch:
    score = round(tube.union.score, 4)
    try:
        box = clip_box(tube, frame, source.tubes)
    except Refused as refusal:
        return Stretch(tube.start, tube.end, score, None, str(refusal.code), refusal.detail)
    return Stretch(tube.start, tube.end, score, (box.left, box.top, box.right, box.bottom))


# ---- kept in files -----------------------------------------------------------------------------------------


def tubes_file(folder: Path, video: str) -> Path:
    """Where the tubes of a video of this name are kept."""
    return folder / f"{video}.json"


def write_tubes(folder: Path, tubes: VideoTubes) -> None:
    """Keep them, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    path = tubes_file(folder, tubes.video)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(json.dumps(asdict(tubes)) + "\n")
    part.replace(path)


def read_tubes(path: Path) -> VideoTubes:
    """The inverse.

    Raises:
        UserError: the file is damaged.
    """
    try:
        fields = json.loads(path.read_text())
        stretches = tuple(
            Stretch(**{**stretch, "box": tuple(stretch["box"]) if stretch["box"] else None})
            for stretch in fields.pop("stretches")
        )
        return VideoTubes(**fields, stretches=stretches)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"not a file of tubes ({error})", str(path), "Delete it; the next run makes it again."
        ) from None


# ---- as a source of clips ----------------------------------------------------------------------------------


def raw_videos(source: VideosSource) -> tuple[list[Entry], list[BadRow]]:
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
            bad.append(BadRow(video.name, "not a name for a video: use letters, digits, _ . -"))
        elif video.stem in good:
            bad.append(BadRow(video.name, f"{good[video.stem].name} has the same name", Code.DUPLICATE))
        else:
            good[video.stem] = video
    return list(good.values()), bad


def list_tubes(source: VideosSource, videos: Sequence[Entry], folder: Path) -> Listing:
    """Clips of the videos whose tubes are known. A video without a single clip is one refused input."""
    jobs: list[ClipJob] = []
    bad: list[BadRow] = []
    for video in videos:
        path = tubes_file(folder, video.name)
        if not path.is_file():
            continue
        tubes = read_tubes(path)
        jobs += [_job(video, tubes, stretch, source.split) for stretch in tubes.clips]
        if not tubes.clips:
            bad.append(_why_none(video, tubes))
    return Listing(tuple(jobs), tuple(bad))


def _job(video: Entry, tubes: VideoTubes, stretch: Stretch, split: str) -> ClipJob:
    # Who is seen is not known: every video counts as a person of its own.
    clip = ClipId(video.stem, video.stem, stretch.start, stretch.end)
    return ClipJob(
        clip_id=_numbered(clip, stretch, tubes),
        person_id=video.stem,
        video_id=video.stem,
        split=split,
        video=video.where,
        start=stretch.start,
        end=stretch.end,
        fps=tubes.fps,
        box=stretch.box,
        width=tubes.width,
        height=tubes.height,
    )


def _numbered(clip: ClipId, stretch: Stretch, tubes: VideoTubes) -> str:
    """Two faces over the very same frames are two people, and need two ids."""
    twins = [other for other in tubes.clips if (other.start, other.end) == (stretch.start, stretch.end)]
    number = twins.index(stretch)
    if number == 0:
        return str(clip)
    return str(ClipId(f"{clip.person_id}.{number + 1}", clip.video_id, clip.start, clip.end))


def _why_none(video: Entry, tubes: VideoTubes) -> BadRow:
    if not tubes.stretches:
        return BadRow(video.name, "no face in it", Code.NO_FACE)
    longest = max(tubes.stretches, key=lambda stretch: stretch.end - stretch.start)
    detail = f"the longest of {len(tubes.stretches)} tubes: {longest.detail}"
    return BadRow(video.name, detail, Code(longest.code))
