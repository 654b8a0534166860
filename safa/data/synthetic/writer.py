"""The data set on disk: videos, sidecars and the list of clips, made by a few processes, restartable.

A video counts as made when its three files are there; each appears whole or not at all.
"""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass, fields
from functools import partial
from pathlib import Path
from statistics import fmean

import numpy as np
import torch

from safa.config import settings_hash
from safa.config.synthetic import SyntheticConfig
from safa.data.synthetic import clips
from safa.data.synthetic.processes import in_processes
from safa.data.synthetic.render import render
from safa.data.synthetic.scene import build_scene, head_model
from safa.data.synthetic.truth import Canvas, Clip, landmarks_in_frame, load_truth, place_whole, save_truth
from safa.data.video import write_video
from safa.errors import UserError
from safa.head import builtin

logger = logging.getLogger(__name__)

COLUMNS = ("video_id", "start", "end", "bbox", "fps", "width", "height", "partition", "person_id")
RECIPE = 2  # raised whenever the same settings give other pictures
LOG_LINES = 12  # of progress, about

Progress = Callable[[int, int], None]  # videos done, videos in all


@dataclass(frozen=True)
class VideoJob:
    """One video to make."""

    person: int
    video: int
    held_out: bool

    @property
    def person_id(self) -> str:
        return f"synth{self.person:05d}"

    @property
    def video_id(self) -> str:
        return f"{self.person_id}_v{self.video:02d}"

    @property
    def partition(self) -> str:
        return "test" if self.held_out else "train"


@dataclass(frozen=True)
class SyntheticSummary:
    """What a data set holds.

    Attributes:
        made: videos made by this call; the others were there already.
        travel: for each person, the landmarks' mean way from a clip's first frame, as a share of the box.
        held_out_travel: mean of the test people's travel over that of the training people; None without them.
    """

    folder: Path
    people: int
    videos: int
    clips: int
    frames: int
    made: int
    seconds: float
    travel: Mapping[str, float]
    held_out_travel: float | None


def video_jobs(config: SyntheticConfig) -> tuple[VideoJob, ...]:
    """All videos; the last ``num_held_out`` people are the test partition."""
    first_held_out = config.num_people - config.num_held_out
    return tuple(
        VideoJob(person, video, held_out=person >= first_held_out)
        for person in range(config.num_people)
        for video in range(config.videos_per_person)
    )


def write_dataset(
    config: SyntheticConfig, out: Path, *, workers: int = 2, progress: Progress | None = None
) -> SyntheticSummary:
    """Make what is missing of the data set in ``out``.

    Writes ``videos/<video>.mp4``, ``.landmarks.npy`` ((T, 68, 2) float32, frame pixels) and ``.truth.npz``,
    then ``metadata.csv``, one line for each clip, and ``summary.json``. Files depend on the settings only.

    Args:
        workers: processes; 1 works in this one.

    Raises:
        UserError: the folder holds a data set of other settings.
    """
    began = time.monotonic()
    _claim(out, config)
    videos = out / "videos"
    jobs = video_jobs(config)
    missing = [job for job in jobs if not _is_made(videos, job)]
    logger.info("synthetic: %d of %d videos to make in %s", len(missing), len(jobs), out)
    done = len(jobs) - len(missing)
    for _ in in_processes(partial(make_video, config, videos), missing, workers):
        done += 1
        if progress is not None:
            progress(done, len(jobs))
        if done % max(1, len(jobs) // LOG_LINES) == 0 or done == len(jobs):
            rate = (done - len(jobs) + len(missing)) * config.frames_per_video / (time.monotonic() - began)
            logger.info("synthetic: video %d/%d, %.0f frames/s", done, len(jobs), rate)
    return _publish(config, out, jobs, len(missing), began)


def _claim(out: Path, config: SyntheticConfig) -> None:
    """Note what this folder is made of, or refuse it if it is something else; clear what a crash left."""
    mark = {
        "recipe": RECIPE,
        "head": _head_digest(),
        "hash": settings_hash(config),
        "settings": config.model_dump(mode="json"),
    }
    path = out / "settings.json"
    (out / "videos").mkdir(parents=True, exist_ok=True)
    if not path.exists():
        _write_json(path, mark)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if found != mark:
        raise UserError(
            "holds a synthetic data set of other settings or of another version",
            str(out),
            "Choose another folder, or delete this one.",
        )
    for leftover in (out / "videos").glob(".*"):
        leftover.unlink()


def _head_digest() -> str:
    """Twelve hex digits that change with the built-in head: another head means other people."""
    head = builtin.build()
    digest = hashlib.sha256()
    for field in fields(head.assets):
        digest.update(getattr(head.assets, field.name).numpy().tobytes())
    for name, mask in sorted(head.regions.items()):
        digest.update(name.encode() + mask.tobytes())
    return digest.hexdigest()[:12]


def _paths(videos: Path, job: VideoJob) -> tuple[Path, Path, Path]:
    names = (f"{job.video_id}{ending}" for ending in (".mp4", ".landmarks.npy", ".truth.npz"))
    movie, landmarks, truth = (videos / name for name in names)
    return movie, landmarks, truth


def _is_made(videos: Path, job: VideoJob) -> bool:
    return all(path.exists() for path in _paths(videos, job))


def make_video(config: SyntheticConfig, videos: Path, job: VideoJob) -> str:
    """Render one video and write its three files, the mp4 last. Returns its id."""
    with _one_thread():
        canvas = Canvas.around(config.frame_size)
        scene = build_scene(config, job.person, job.video, job.held_out)
        points = landmarks_in_frame(scene.track, canvas, head_model())
        parts = tuple(Clip(a, b, clips.face_box(points[a:b], config.frame_size)) for a, b in scene.spans)
        movie, landmarks, truth = _paths(videos, job)
        save_truth(truth, scene.track, canvas, parts)
        place_whole(landmarks, lambda temporary: np.save(temporary, points))
        write_video(movie, render(scene, canvas), config.fps, crf=config.crf)
    return job.video_id


@contextmanager
def _one_thread() -> Iterator[None]:
    """Results then don't depend on the number of processes, and these don't fight for the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _publish(
    config: SyntheticConfig, out: Path, jobs: tuple[VideoJob, ...], made: int, began: float
) -> SyntheticSummary:
    """Gather the clips from the sidecars; write ``metadata.csv`` and ``summary.json``."""
    height, width = config.frame_size
    rows: list[tuple[object, ...]] = []
    travel: dict[str, list[float]] = {}
    for job in jobs:
        _, landmarks, truth = _paths(out / "videos", job)
        points = np.load(landmarks, allow_pickle=False)
        for clip in load_truth(truth)[2]:
            box = "-".join(str(side) for side in astuple(clip.box))
            rows.append(
                (
                    job.video_id,
                    clip.start,
                    clip.end,
                    box,
                    f"{config.fps:g}",
                    width,
                    height,
                    job.partition,
                    job.person_id,
                )
            )
            travel.setdefault(job.person_id, []).append(clips.travel(points[clip.start : clip.end]))
    place_whole(out / "metadata.csv", lambda temporary: _write_csv(temporary, rows))
    by_person = {person: fmean(values) for person, values in travel.items()}
    held_out = {job.person_id for job in jobs if job.held_out}
    rest = fmean(value for person, value in by_person.items() if person not in held_out)
    summary = SyntheticSummary(
        folder=out,
        people=config.num_people,
        videos=len(jobs),
        clips=len(rows),
        frames=len(jobs) * config.frames_per_video,
        made=made,
        seconds=round(time.monotonic() - began, 2),
        travel={person: round(value, 5) for person, value in by_person.items()},
        held_out_travel=fmean(by_person[person] for person in held_out) / rest if held_out and rest else None,
    )
    _write_json(out / "summary.json", {**asdict(summary), "folder": out.name})
    logger.info("synthetic: %d clips, %d frames of %d people", summary.clips, summary.frames, summary.people)
    return summary


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    text = json.dumps(content, indent=2) + "\n"

    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    place_whole(path, write)


def _write_csv(path: Path, rows: list[tuple[object, ...]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(rows)
