"""Writes the data set: videos, sidecars and the list of clips, in several processes, resumable.

A video is done when its three files exist; each is written atomically. The processes share a list of jobs,
and end with the one that started them.
"""

from __future__ import annotations

import csv
import hashlib
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass, fields
from functools import partial
from statistics import fmean
from typing import TypeVar

import numpy as np
import torch

from safa.config import settings_hash
from safa.config.synthetic import SyntheticConfig
from safa.data.video import write_video
from safa.errors import UserError
from safa.files import (
    Location,
    atomic_file,
    exists,
    join,
    local_file,
    name_of,
    remove_leftovers,
    shown,
    write_json,
)
from safa.head import builtin
from safa.reading import read_json
from safa.synthetic.render import render
from safa.synthetic.scene import build_scene, head_model
from safa.synthetic.truth import Canvas, Clip, face_box, landmarks_in_frame, load_truth, save_truth, travel

logger = logging.getLogger(__name__)

COLUMNS = ("video_id", "start", "end", "bbox", "fps", "width", "height", "partition", "person_id")
RECIPE = 2  # raised whenever the same settings give different frames
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

    folder: Location
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
    config: SyntheticConfig, out: Location, *, workers: int = 2, progress: Progress | None = None
) -> SyntheticSummary:
    """Write what is missing of the data set in ``out``.

    Writes ``videos/<video>.mp4``, ``.landmarks.npy`` ((T, 68, 2) float32, frame pixels) and ``.truth.npz``,
    then ``metadata.csv``, one line for each clip, and ``summary.json``. Files depend on the settings only.

    Args:
        workers: processes; 1 works in this one.

    Raises:
        UserError: the folder holds a data set of other settings.
    """
    began = time.monotonic()
    _lock_settings(out, config)
    videos = join(out, "videos")
    jobs = video_jobs(config)
    missing = [job for job in jobs if not _is_done(videos, job)]
    logger.info("synthetic: %d of %d videos to make in %s", len(missing), len(jobs), shown(out))
    done = len(jobs) - len(missing)
    for _ in in_processes(partial(make_video, config, videos), missing, workers):
        done += 1
        if progress is not None:
            progress(done, len(jobs))
        if done % max(1, len(jobs) // LOG_LINES) == 0 or done == len(jobs):
            rate = (done - len(jobs) + len(missing)) * config.frames_per_video / (time.monotonic() - began)
            logger.info("synthetic: video %d/%d, %.0f frames/s", done, len(jobs), rate)
    return _publish(config, out, jobs, len(missing), began)


def _lock_settings(out: Location, config: SyntheticConfig) -> None:
    """Refuse a folder with another data set; delete incomplete files of a run that was killed."""
    lock = {
        "recipe": RECIPE,
        "head": _head_digest(),
        "hash": settings_hash(config),
        "settings": config.model_dump(mode="json"),
    }
    path = join(out, "settings.json")
    if not exists(path):
        write_json(path, lock)
    try:
        existing = read_json(path)
    except UserError:
        existing = None
    if existing != lock:
        raise UserError(
            "holds a synthetic data set of other settings or of another version",
            shown(out),
            "Choose another folder, or delete this one.",
        )
    remove_leftovers(join(out, "videos"))


def _head_digest() -> str:
    """Twelve hex digits that change with the built-in head: another head means other people."""
    head = builtin.build()
    digest = hashlib.sha256()
    for field in fields(head.assets):
        digest.update(getattr(head.assets, field.name).numpy().tobytes())
    for name, mask in sorted(head.regions.items()):
        digest.update(name.encode() + mask.tobytes())
    return digest.hexdigest()[:12]


def _paths(videos: Location, job: VideoJob) -> tuple[Location, Location, Location]:
    names = (f"{job.video_id}{suffix}" for suffix in (".mp4", ".landmarks.npy", ".truth.npz"))
    video, landmarks, truth = (join(videos, name) for name in names)
    return video, landmarks, truth


def _is_done(videos: Location, job: VideoJob) -> bool:
    return all(map(exists, _paths(videos, job)))


def make_video(config: SyntheticConfig, videos: Location, job: VideoJob) -> str:
    """Render one video and write its three files, the mp4 last. Returns its id."""
    with _one_thread():
        canvas = Canvas.around(config.frame_size)
        scene = build_scene(config, job.person, job.video, job.held_out)
        points = landmarks_in_frame(scene.track, canvas, head_model())
        clips = tuple(Clip(a, b, face_box(points[a:b], config.frame_size)) for a, b in scene.spans)
        video, landmarks, truth = _paths(videos, job)
        save_truth(truth, scene.track, canvas, clips)
        with atomic_file(landmarks) as temporary:
            np.save(temporary, points)
        write_video(video, render(scene, canvas), config.fps, crf=config.crf)
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
    config: SyntheticConfig, out: Location, jobs: tuple[VideoJob, ...], made: int, began: float
) -> SyntheticSummary:
    """Collect the clips from the sidecars; write ``metadata.csv`` and ``summary.json``."""
    height, width = config.frame_size
    rows: list[tuple[object, ...]] = []
    travels: dict[str, list[float]] = {}
    for job in jobs:
        _, landmarks, truth = _paths(join(out, "videos"), job)
        with local_file(landmarks) as local:
            points = np.load(local, allow_pickle=False)
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
            travels.setdefault(job.person_id, []).append(travel(points[clip.start : clip.end]))
    _write_csv(join(out, "metadata.csv"), rows)
    by_person = {person: fmean(values) for person, values in travels.items()}
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
    write_json(join(out, "summary.json"), {**asdict(summary), "folder": name_of(out)})
    logger.info("synthetic: %d clips, %d frames of %d people", summary.clips, summary.frames, summary.people)
    return summary


def _write_csv(path: Location, rows: list[tuple[object, ...]]) -> None:
    with atomic_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(rows)


# ---- processes ---------------------------------------------------------------------------------------------

Job = TypeVar("Job")
Result = TypeVar("Result")


def in_processes(do: Callable[[Job], Result], jobs: Sequence[Job], workers: int) -> Iterator[Result]:
    """Do the jobs; yield each result as it is ready, in any order. The first error ends the run.

    Args:
        do: a function that can be pickled.
        workers: number of processes; with 1 the jobs are done in this one.
    """
    workers = min(workers, len(jobs))
    if workers <= 1:
        yield from map(do, jobs)
        return
    # spawn: a fork of a process with threads (torch, Ray) may hang.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start)
    try:
        with _without_interrupts():  # the processes start with the first jobs
            pending: set[Future[Result]] = {pool.submit(do, job) for job in jobs}
        while pending:
            finished, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in finished:
                yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)  # waits for the jobs in hand only


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Processes started in here never see Ctrl-C, which a terminal sends to all: their parent decides."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start() -> None:
    """Leave with the parent if it is killed."""
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
