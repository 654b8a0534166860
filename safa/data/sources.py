"""Where clips come from: a list of clips in videos, faces found in videos, or crops that exist already."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safa.config.preprocess import ClipsSource, MetadataSource, Source
from safa.data.clip_id import ClipId, is_safe_name
from safa.data.crop import Box
from safa.data.schema import Code
from safa.errors import UserError

COLUMNS = ("video_id", "start", "end", "bbox", "fps", "width", "height", "partition", "person_id")
SPLITS = ("train", "test")


@dataclass(frozen=True, slots=True)
class ClipJob:
    """One clip to be made.

    ``box`` is in a frame of ``width`` x ``height``; ``start`` and ``end`` (exclusive) count frames at
    ``fps``. None stands for the whole frame, the whole video.
    """

    clip_id: str
    person_id: str
    video_id: str
    split: str
    video: str  # path of a video, or of a folder of PNGs
    start: int
    end: int | None
    fps: float | None
    box: tuple[int, int, int, int] | None
    width: int | None
    height: int | None

    def to_json(self) -> str:
        """As text, for a column of a data set."""
        return json.dumps([getattr(self, name) for name in self.__slots__])

    @classmethod
    def from_json(cls, text: str) -> ClipJob:
        """The inverse of ``to_json``."""
        fields = dict(zip(cls.__slots__, json.loads(text), strict=True))
        return cls(**fields | {"box": tuple(fields["box"]) if fields["box"] else None})


@dataclass(frozen=True, slots=True)
class BadRow:
    """An input that cannot become a clip; ``name`` is unique and says which one."""

    name: str
    detail: str
    code: Code = Code.BAD_ROW


@dataclass(frozen=True)
class Listing:
    """Everything a source offers, the unusable lines too, so that none is lost silently."""

    jobs: tuple[ClipJob, ...]
    bad_rows: tuple[BadRow, ...]


def list_jobs(source: MetadataSource | ClipsSource) -> Listing:
    """All clips of a source that names them.

    Raises:
        UserError: the list or the folder is missing, lacks a column, or is empty.
    """
    listing = _from_metadata(source) if isinstance(source, MetadataSource) else _from_folder(source)
    if not listing.jobs and not listing.bad_rows:
        where = source.csv if isinstance(source, MetadataSource) else source.folder
        raise UserError("no clips here", str(where))
    return listing


def place_of(source: Source) -> Path:
    """The folder that a source reads from, or downloads to."""
    return source.videos if isinstance(source, MetadataSource) else source.folder


# ---- a list in VoxCeleb's columns --------------------------------------------------------------------------


def _from_metadata(source: MetadataSource) -> Listing:
    if source.fetch is None and not source.videos.is_dir():
        raise UserError("no such folder of videos", str(source.videos), "Check source.videos.")
    jobs: dict[str, ClipJob] = {}
    lines: dict[str, int] = {}
    bad: list[BadRow] = []
    for number, row in enumerate(_csv_rows(source.csv), 2):  # line 1 holds the names of the columns
        name = f"{source.csv.name}:{number}"
        try:
            job = _job_of_row(row, source.videos)
        except (ValueError, TypeError) as error:
            bad.append(BadRow(name, str(error)))
            continue
        former = jobs.get(job.clip_id)
        if former is None or (former.split, job.split) == ("train", "test"):
            # What is held out by any line stays held out: the other line is the duplicate.
            jobs[job.clip_id], job_line = job, lines.get(job.clip_id, number)
            lines[job.clip_id] = number
            if former is None:
                continue
            name = f"{source.csv.name}:{job_line}"
        detail = f"clip {job.clip_id} is also in line {lines[job.clip_id]}"
        bad.append(BadRow(name, detail, Code.DUPLICATE))
    return Listing(tuple(jobs.values()), tuple(bad))


def _csv_rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # with or without a byte order mark
            reader = csv.DictReader(file)
            missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise UserError(f"lacks the columns {', '.join(missing)}", str(path))
            yield from reader
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read the list ({error})", str(path), "Check source.csv.") from None


def _job_of_row(row: Mapping[str, Any], videos: Path) -> ClipJob:
    clip = ClipId(row["person_id"], row["video_id"], int(row["start"]), int(row["end"]))
    box = Box.parse(row["bbox"])
    fps, width, height = float(row["fps"]), int(row["width"]), int(row["height"])
    if not 0 < fps < 1000 or width < 1 or height < 1:
        raise ValueError(f"fps {fps}, width {width}, height {height} make no sense")
    if row["partition"] not in SPLITS:
        raise ValueError(f"partition {row['partition']!r} is neither train nor test")
    return ClipJob(
        clip_id=str(clip),
        person_id=clip.person_id,
        video_id=clip.video_id,
        split=row["partition"],
        video=str(videos / f"{clip.video_id}.mp4"),
        start=clip.start,
        end=clip.end,
        fps=fps,
        box=(box.left, box.top, box.right, box.bottom),
        width=width,
        height=height,
    )


# ---- crops that exist already ------------------------------------------------------------------------------


def is_picture_folder(path: Path) -> bool:
    """Whether a clip is stored as a folder of numbered PNGs."""
    return path.is_dir() and next(path.glob("*.png"), None) is not None


def _from_folder(source: ClipsSource) -> Listing:
    if not source.folder.is_dir():
        raise UserError("no such folder of clips", str(source.folder), "Check source.folder.")
    jobs: dict[str, ClipJob] = {}
    bad = []
    for path in sorted(source.folder.iterdir()):
        if path.suffix != ".mp4" and not is_picture_folder(path):
            continue
        try:
            job = _job_of_file(path, source)
            if job.clip_id in jobs:
                raise ValueError(f"clip {job.clip_id} is there as a video too")
            jobs[job.clip_id] = job
        except ValueError as error:
            bad.append(BadRow(path.name, str(error)))
    return Listing(tuple(jobs.values()), tuple(bad))


def _job_of_file(path: Path, source: ClipsSource) -> ClipJob:
    """What is named as a clip keeps that id; any other is a clip, a video and a person of its own."""
    name = path.name if path.is_dir() else path.stem
    try:
        clip = ClipId.parse(name)
        clip_id, person, video, start = name, clip.person_id, clip.video_id, clip.start
    except ValueError:
        if not is_safe_name(name):
            raise ValueError(f"{path.name!r} is not a name for a clip: use letters, digits, _ . -") from None
        clip_id = person = video = name
        start = 0
    fps = source.fps if path.is_dir() else None
    return ClipJob(clip_id, person, video, source.split, str(path), start, None, fps, None, None, None)
