"""Functions and actors that Ray Data runs on workers. They contain no mathematics: ``safa`` does the work.

A row stands for one input. Its outcome is written into the row (``ok_row``, ``failure_row``), so that one bad
clip never stops a run.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

import pyarrow as pa
import torch

from safa.checkpoint.native import load_model
from safa.config.inference import EvaluateConfig
from safa.config.preprocess import FaceAlignmentLandmarks, MetadataSource, PreprocessConfig, VideosSource
from safa.data.clip_maker import LandmarkDetector, make_clip
from safa.data.clip_store import ClipStore
from safa.data.detectors import FaceDetector
from safa.data.detectors.face_alignment import LibraryDetector, LibraryLandmarks
from safa.data.download.base import Downloader
from safa.data.download.retry import downloaded, make_downloader
from safa.data.face_tracks import find_face_tracks, write_tracks
from safa.data.landmarks import sidecar_names
from safa.data.shards import INDEX, ShardWriter, read_index_file
from safa.data.sources import ClipJob
from safa.errors import ClipError, Failure, FailureCode
from safa.evaluation.clip_evaluator import ClipEvaluator
from safa.evaluation.jobs import EvaluationJob
from safa.evaluation.scorers import load_scorers
from safa.files import Location, exists, join, local_copy, local_file, name_of
from safa.inference.model_runner import ModelRunner
from safa.inference.swap_mask import load_mask
from safa.report.page import CLIPS as RESULTS

CLIPS = "clips"  # folder of the data set in a run folder of preprocess
IN_PROGRESS = ".attempts"  # ends the name of a clip's mark, which counts the attempts
MAX_WORKER_DEATHS = 2  # at one clip; after that the clip is quarantined

MAX_SHARD_BYTES = 2**29  # of images
MAX_SHARD_SECONDS = 600.0  # of work, which is what a worker that dies can lose

# ``{id, code, detail, n_frames, seconds}``; an empty code means that the input became output.
Row = dict[str, Any]
ROW_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("code", pa.string()),
        ("detail", pa.string()),
        ("n_frames", pa.int64()),
        ("seconds", pa.float64()),
    ]
)


def ok_row(name: str, n_frames: int, seconds: float = 0.0) -> Row:
    """The row of an input that became output."""
    return {"id": name, "code": "", "detail": "", "n_frames": n_frames, "seconds": seconds}


def failure_row(failure: Failure) -> Row:
    """The row of an input that did not become output."""
    row = {"id": failure.name, "code": str(failure.code), "detail": failure.detail}
    return {**row, "n_frames": 0, "seconds": 0.0}


def failure_in(row: Row, stage: str) -> Failure | None:
    """The failure that a row describes; None if its input became output."""
    return Failure(row["id"], FailureCode(row["code"]), row["detail"], stage) if row["code"] else None


def _attempt(name: str, work: Callable[[], int]) -> Row:
    """Do the work of one input, which returns its number of frames; an error becomes the row of a failure."""
    began = time.monotonic()
    try:
        n_frames = work()
    except Exception as error:
        return failure_row(Failure.of(name, error))
    return ok_row(name, n_frames, time.monotonic() - began)


# ---- preprocess --------------------------------------------------------------------------------------------


class ClipMaker:
    """Makes the clips of a block of videos and writes them as shards of the data set.

    A shard is closed when it is large or old, and at the end of the block; its clips are there from then on,
    so a worker that dies loses the shard at work. A block that is tried again skips what is there.

    Networks are loaded and the downloader is made when the first row comes, on the worker.
    """

    def __init__(self, config: PreprocessConfig) -> None:
        self._config = config
        self._folder = join(config.out, CLIPS)
        self._downloader: Downloader | None = None
        self._detector: LandmarkDetector | None = None
        self._blocked: ClipError | None = None

    def __call__(self, block: pa.Table) -> Iterator[pa.Table]:
        """Rows ``{jobs}``, clips of one video as text each, to one row for each clip."""
        videos = [[ClipJob.from_json(text) for text in texts] for texts in block["jobs"].to_pylist()]
        name = videos[0][0].clip_id  # the same in every attempt at this block
        before = self._stored_before(name)
        number, there = len(before), {clip: frames for shard in before for clip, frames in shard.items()}
        remaining = iter(videos)
        video = next(remaining, None)
        while video is not None:
            rows: list[Row] = []
            opened = time.monotonic()
            with ShardWriter(self._folder, part_name(name, number)) as shard:
                while video is not None and not self._is_full(shard, opened):
                    rows += [ok_row(job.clip_id, there[job.clip_id]) for job in video if job.clip_id in there]
                    rows += self._make_video([job for job in video if job.clip_id not in there], shard)
                    video = next(remaining, None)
            number += 1
            yield pa.Table.from_pylist(rows, schema=ROW_SCHEMA)

    def _stored_before(self, block: str) -> list[dict[str, int]]:
        """What earlier attempts at this block have stored: for each of its shards, clips and their frames."""
        shards: list[dict[str, int]] = []
        while exists(where := join(self._folder, INDEX, f"{part_name(block, len(shards))}.arrow")):
            with local_file(where) as path:
                index = read_index_file(path)
                shards.append(
                    dict(zip(*(index[n].to_pylist() for n in ("clip_id", "n_frames")), strict=True))
                )
        return shards

    @staticmethod
    def _is_full(shard: ShardWriter, opened: float) -> bool:
        return shard.n_bytes > MAX_SHARD_BYTES or time.monotonic() - opened > MAX_SHARD_SECONDS

    def _make_video(self, jobs: list[ClipJob], shard: ShardWriter) -> list[Row]:
        """The clips of one video."""
        rows: list[Row] = []
        if not jobs:
            return rows
        try:
            if self._blocked is not None:  # don't knock again where we were sent away
                raise self._blocked
            with self._video(jobs[0]) as video:
                for job in jobs:
                    rows.append(self._make(replace(job, video=str(video)), shard))
        except Exception as error:  # of the whole video
            if isinstance(error, ClipError) and error.code == FailureCode.BLOCKED:
                self._blocked = error
            rows += [failure_row(Failure.of(job.clip_id, error)) for job in jobs[len(rows) :]]
        return rows

    def _make(self, job: ClipJob, shard: ShardWriter) -> Row:
        return _attempt(job.clip_id, lambda: make_clip(job, self._config, shard, self._landmark_detector()))

    def _video(self, job: ClipJob) -> AbstractContextManager[Path]:
        source = self._config.source
        if not isinstance(source, MetadataSource) or source.download is None:
            return local_copy(job.video, _sidecars(name_of(job.video)))
        self._downloader = self._downloader or make_downloader(source.download)
        return downloaded(job.video_id, source, self._downloader)

    def _landmark_detector(self) -> LandmarkDetector | None:
        if self._detector is None and isinstance(self._config.landmarks, FaceAlignmentLandmarks):
            self._detector = LibraryLandmarks(self._config.landmarks)
        return self._detector


def part_name(block: str, number: int) -> str:
    """The name of the index file of a block's shard, the same in every attempt at the block."""
    return hashlib.sha256(f"{block}/{number}".encode()).hexdigest()[:32]


class FaceTrackFinder:
    """Finds the face tracks of one raw video and writes their file."""

    def __init__(self, source: VideosSource, fps: float, folder: Location) -> None:
        self._source, self._fps, self._folder = source, fps, folder
        self._detector: FaceDetector | None = None

    def __call__(self, row: Row) -> Row:
        """Turn a row ``{video}``, a path or URI, into its outcome; ``n_frames`` counts the clips found."""
        return _attempt(name_of(row["video"]), lambda: self._find(row["video"]))

    def _find(self, location: str) -> int:
        if self._detector is None:
            self._detector = LibraryDetector(self._source.detector)
        with local_copy(location) as video:
            tracks = find_face_tracks(video, self._source, self._fps, self._detector)
        write_tracks(self._folder, tracks)
        return len(tracks.clips)


def _sidecars(video: str) -> list[str]:
    """Names of sidecars of a video of this name, or of a folder of images, which has no suffix."""
    return [*sidecar_names(PurePath(video).stem), *sidecar_names(video)]


# ---- evaluate ----------------------------------------------------------------------------------------------


class Evaluator:
    """An actor that keeps the model loaded and evaluates clips."""

    def __init__(self, config: EvaluateConfig) -> None:
        torch.set_num_threads(config.scale.threads_per_actor)  # Ray presets 1
        device = "cuda" if config.scale.gpus_per_actor > 0 else "cpu"
        model, _ = load_model(config.model, device)
        self._evaluator = ClipEvaluator(
            ModelRunner(model, device, config.scale.batch_size),
            ClipStore(config.clips),
            config,
            load_scorers(config.scorers, model.tdmm, device),
            load_mask(config.swap, model.tdmm, device) if "swap" in config.modes else None,
        )
        self._out = config.out

    def __call__(self, row: Row) -> Row:
        """Add its outcome to a row ``{job}``."""
        job = EvaluationJob.from_json(row["job"])
        folder = clip_folder(self._out, job)
        return row | _attempt(job.title, lambda: self._evaluate(job, folder))

    def _evaluate(self, job: EvaluationJob, folder: Path) -> int:
        with _counting_worker_deaths(folder):
            return self._evaluator.run(job, folder).n_frames


def clip_folder(out: Path, job: EvaluationJob) -> Path:
    """The folder with the output of one job."""
    return out / RESULTS / job.mode / job.folder_name


@contextmanager
def _counting_worker_deaths(folder: Path) -> Iterator[None]:
    """Keep a mark while a clip is evaluated; if workers have died at it several times, quarantine it.

    Ray restarts a dead worker and gives it the same clip, endlessly.
    """
    mark = folder.with_name(f".{folder.name}{IN_PROGRESS}")
    deaths = mark.stat().st_size if mark.exists() else 0
    if deaths >= MAX_WORKER_DEATHS:
        raise ClipError(FailureCode.UNEXPECTED, f"{deaths} workers died at this clip")
    mark.parent.mkdir(parents=True, exist_ok=True)
    with mark.open("ab") as file:
        file.write(b".")
    try:
        yield
    finally:  # whatever happened, this worker is still alive
        mark.unlink()
