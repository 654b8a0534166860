"""Where clips come from: a list of clips in videos, or a folder of videos that are crops already."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safa.config.preprocess import ClipsSource, MetadataSource
from safa.data.clip_id import ClipId, is_safe_name
from safa.data.crop import Box
from safa.errors import UserError

COLUMNS = ("video_id", "start", "end", "bbox", "fps", "width", "height", "partition", "person_id")
SPLITS = ("train", "test")


@dataclass(frozen=True)
class ClipJob:
    """One clip to be made.

    ``box`` is in a frame of ``width`` x ``height``; ``start`` and ``end`` (exclusive) count frames at
    ``fps``. None stands for the whole frame, the whole video.
    """

    clip_id: str
    person_id: str
    video_id: str
    split: str
    video: str  # path
    start: int
    end: int | None
    fps: float | None
    box: tuple[int, int, int, int] | None
    width: int | None
    height: int | None

    def to_json(self) -> str:
        """As text, for a column of a data set."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> ClipJob:
        """The inverse of ``to_json``."""
        fields = json.loads(text)
        return cls(**fields | {"box": tuple(fields["box"]) if fields["box"] else None})


@dataclass(frozen=True)
class BadRow:
    """A line of the list that makes no sense; ``name`` is unique and says which line."""

    name: str
    detail: str


@dataclass(frozen=True)
class Listing:
    """Everything a source offers, the unusable lines too, so that none is lost silently."""

    jobs: tuple[ClipJob, ...]
    bad_rows: tuple[BadRow, ...]


def list_jobs(source: MetadataSource | ClipsSource) -> Listing:
    """All clips of a source.

    Raises:
        UserError: the list or the folder is missing, lacks a column, or is empty.
    """
    listing = _from_metadata(source) if isinstance(source, MetadataSource) else _from_folder(source)
    if not listing.jobs and not listing.bad_rows:
        where = source.csv if isinstance(source, MetadataSource) else source.folder
        raise UserError("no clips here", str(where))
    return listing


def _from_metadata(source: MetadataSource) -> Listing:
    if not source.videos.is_dir():
        raise UserError("no such folder of videos", str(source.videos), "Check source.videos.")
    try:
        with source.csv.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise UserError(f"lacks the columns {', '.join(missing)}", str(source.csv))
            rows = list(reader)
    except OSError as error:
        raise UserError(
            f"cannot read the list ({error.strerror})", str(source.csv), "Check source.csv."
        ) from None
    jobs: dict[str, ClipJob] = {}
    bad: list[BadRow] = []
    for number, row in enumerate(rows, 2):  # line 1 holds the names of the columns
        try:
            job = _job_of_row(row, source.videos)
            if job.clip_id in jobs:
                raise ValueError(f"clip {job.clip_id} is listed twice")
            jobs[job.clip_id] = job
        except (ValueError, TypeError) as error:
            bad.append(BadRow(f"{source.csv.name}:{number}", str(error)))
    return Listing(tuple(jobs.values()), tuple(bad))


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


def _from_folder(source: ClipsSource) -> Listing:
    if not source.folder.is_dir():
        raise UserError("no such folder of clips", str(source.folder), "Check source.folder.")
    jobs, bad = [], []
    for path in sorted(source.folder.glob("*.mp4")):
        try:
            jobs.append(_job_of_file(path, source.split))
        except ValueError as error:
            bad.append(BadRow(path.name, str(error)))
    return Listing(tuple(jobs), tuple(bad))


def _job_of_file(path: Path, split: str) -> ClipJob:
    """A file named as a clip keeps that id; any other is a clip, a video and a person of its own."""
    try:
        clip = ClipId.parse(path.stem)
        clip_id, person, video, start = path.stem, clip.person_id, clip.video_id, clip.start
    except ValueError:
        if not is_safe_name(path.stem):
            raise ValueError(f"{path.name!r} is not a name for a clip: use letters, digits, _ . -") from None
        clip_id = person = video = path.stem
        start = 0
    return ClipJob(clip_id, person, video, split, str(path), start, None, None, None, None, None)
