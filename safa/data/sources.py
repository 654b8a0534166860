"""Sources of clips: a list of clips in videos, or a folder of crops that exist already."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from safa.config.preprocess import ClipsSource, MetadataSource
from safa.csv_files import number, read_csv, whole_number
from safa.data.crop import Box
from safa.data.people import Person, with_splits
from safa.data.schema import ClipId, is_safe_name
from safa.errors import Failure, FailureCode, UserError
from safa.files import Entry, Location, entries, is_folder, join, missing, name_of, shown
from safa.media_types import COMPANIONS, VIDEOS, is_frame, is_hidden, is_video, suffix_of

COLUMNS = ("video_id", "start", "end", "bbox", "fps", "width", "height", "partition", "person_id")
SPLITS = {"train": "train", "training": "train", "test": "test", "testing": "test"}
SPLITS |= dict.fromkeys(("val", "valid", "validation", "dev"), "test")  # held out, too


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
    video: str  # path or URI of a video, or of a folder of PNGs
    start: int
    end: int | None
    fps: float | None
    box: tuple[int, int, int, int] | None
    width: int | None
    height: int | None

    def to_json(self) -> str:
        """The job as text, for a column of a Ray data set."""
        return json.dumps([getattr(self, name) for name in self.__slots__])

    @classmethod
    def from_json(cls, text: str) -> ClipJob:
        """Read what ``to_json`` wrote."""
        fields = dict(zip(cls.__slots__, json.loads(text), strict=True))
        return cls(**fields | {"box": tuple(fields["box"]) if fields["box"] else None})


@dataclass(frozen=True)
class Listing:
    """Everything a source offers, the unusable lines too, so that none is lost silently.

    ``people`` is to be kept for later runs: who has been found, and who is held out. Lists name both.
    """

    jobs: tuple[ClipJob, ...]
    bad_rows: tuple[Failure, ...]
    people: tuple[Person, ...] = ()


def list_jobs(source: MetadataSource | ClipsSource, known: Sequence[Person] = ()) -> Listing:
    """List all clips of a source that names them.

    Args:
        known: people of earlier runs, who keep their splits.

    Raises:
        UserError: the list or the folder is missing, lacks a column, or is empty.
    """
    listing = _from_metadata(source) if isinstance(source, MetadataSource) else _from_folder(source, known)
    if not listing.jobs and not listing.bad_rows:
        where = source.csv if isinstance(source, MetadataSource) else source.folder
        raise UserError("no clips here", shown(where))
    return listing


# ---- a list in VoxCeleb's columns --------------------------------------------------------------------------


def _from_metadata(source: MetadataSource) -> Listing:
    if source.download is None and not is_folder(source.videos):
        fix = "Check source.videos, or give source.download."
        raise UserError(missing(source.videos, "no such folder of videos"), shown(source.videos), fix)
    jobs: dict[str, ClipJob] = {}
    lines: dict[str, int] = {}
    bad: list[Failure] = []
    file = name_of(source.csv)
    videos = _videos_by_stem(source)
    for row in read_csv(source.csv, COLUMNS):
        name = f"{file}:{row.line}"
        try:
            if row.problem:
                raise ValueError(row.problem)
            job = _job_of_row(row.fields, source.videos, videos)
        except ValueError as error:
            bad.append(Failure(name, FailureCode.BAD_ROW, str(error)))
            continue
        former = jobs.get(job.clip_id)
        if former is None or (former.split, job.split) == ("train", "test"):
            # What is held out by any line stays held out: the other line is the duplicate.
            jobs[job.clip_id], job_line = job, lines.get(job.clip_id, row.line)
            lines[job.clip_id] = row.line
            if former is None:
                continue
            name = f"{file}:{job_line}"
        detail = f"clip {job.clip_id} is also in line {lines[job.clip_id]}"
        bad.append(Failure(name, FailureCode.DUPLICATE, detail))
    if bad and not jobs:
        fix = f"The first: {bad[0].name}: {bad[0].detail}."
        raise UserError(f"none of its {len(bad)} lines can be used", shown(source.csv), fix)
    return Listing(tuple(jobs.values()), tuple(bad))


def _videos_by_stem(source: MetadataSource) -> dict[str, str]:
    """Names of the videos that are there, by name without suffix; a list says ``vid2`` of ``vid2.webm``."""
    if source.download is not None:
        return {}
    found: dict[str, str] = {}
    for entry in contents(source.videos, "videos"):
        if not entry.is_folder and is_video(entry.name):
            best = found.get(entry.stem)
            if best is None or VIDEOS.index(entry.suffix.lower()) < VIDEOS.index(suffix_of(best)):
                found[entry.stem] = entry.name
    return found


def _job_of_row(row: Mapping[str, str], videos: Location, names: Mapping[str, str]) -> ClipJob:
    start, end = (whole_number(row[name], name) for name in ("start", "end"))
    clip = ClipId(row["person_id"], row["video_id"], start, end)
    box = Box.parse(row["bbox"])
    fps, width, height = number(row["fps"], "fps"), *(whole_number(row[n], n) for n in ("width", "height"))
    if not 0 < fps < 1000 or width < 1 or height < 1:
        raise ValueError(f"fps {fps}, width {width}, height {height} make no sense")
    split = SPLITS.get(row["partition"].lower())
    if split is None:
        raise ValueError(f"partition {row['partition']!r} is neither train nor test")
    return ClipJob(
        clip_id=str(clip),
        person_id=clip.person_id,
        video_id=clip.video_id,
        split=split,
        video=str(join(videos, names.get(clip.video_id, f"{clip.video_id}.mp4"))),
        start=clip.start,
        end=clip.end,
        fps=fps,
        box=(box.left, box.top, box.right, box.bottom),
        width=width,
        height=height,
    )


# ---- crops that exist already ------------------------------------------------------------------------------


def contents(folder: Location, what: str) -> list[Entry]:
    """List a source's folder in the order of names.

    Args:
        what: what the folder should hold, for the error.

    Raises:
        UserError: no such folder, or it cannot be read.
    """
    try:
        return sorted(entries(folder))
    except (OSError, ValueError) as error:  # or a malformed URI
        reason = "" if isinstance(error, FileNotFoundError | NotADirectoryError) else f" ({error})"
        why = f"no such folder of {what}{reason}"
        if isinstance(error, NotADirectoryError):
            why = f"is a file, not a folder of {what}"
        if isinstance(error, OSError):
            why = missing(folder, why)
        raise UserError(why, shown(folder), "Check the location.") from None


def is_image_folder(entry: Entry) -> bool:
    """Whether a clip is stored as a folder of numbered pictures."""
    return entry.is_folder and any(is_frame(child.name) for child in entries(entry.location))


def _from_folder(source: ClipsSource, known: Sequence[Person]) -> Listing:
    jobs: dict[str, ClipJob] = {}
    bad = []
    for entry in contents(source.folder, "clips"):
        if is_hidden(entry.name) or (not entry.is_folder and suffix_of(entry.name) in COMPANIONS):
            continue
        try:
            if not is_image_folder(entry) and (entry.is_folder or not is_video(entry.name)):
                kind = "a folder without frames" if entry.is_folder else "no kind of video that is read"
                raise ValueError(f"{entry.name!r} is {kind}")
            job = _job_of_file(entry, source)
            if job.clip_id in jobs:
                raise ValueError(f"clip {job.clip_id} exists as a video too")
            jobs[job.clip_id] = job
        except ValueError as error:
            bad.append(Failure(entry.name, FailureCode.BAD_ROW, str(error)))
    if source.split != "auto":
        return Listing(tuple(jobs.values()), tuple(bad))
    there = {person.name for person in known}
    new = sorted({job.person_id for job in jobs.values()} - there)
    people = with_splits([*known, *map(Person, new)], source.held_out)
    split_of = {person.name: person.split for person in people}
    split = tuple(replace(job, split=split_of[job.person_id]) for job in jobs.values())
    return Listing(split, tuple(bad), tuple(people))


def _job_of_file(entry: Entry, source: ClipsSource) -> ClipJob:
    """A file named by a clip id keeps it; any other is a clip, a video and a person of its own."""
    name = entry.stem
    try:
        clip = ClipId.parse(name)
        clip_id, person, video, start = name, clip.person_id, clip.video_id, clip.start
    except ValueError:
        if not is_safe_name(name):
            raise ValueError(f"{entry.name!r}: unsuitable file name; use letters, digits, _ . -") from None
        clip_id = person = video = name
        start = 0
    fps = source.fps if entry.is_folder else None
    return ClipJob(clip_id, person, video, source.split, entry.location, start, None, fps, None, None, None)
