"""Row functions that Ray Data runs on workers. They hold no mathematics: ``safa`` does the work.

A failure is a row too, no exception: one bad clip must never stop a run.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

from safa.config.preprocess import FaceAlignmentLandmarks, MetadataSource, PreprocessConfig, VideosSource
from safa.data.clip_maker import FindLandmarks, make_clip
from safa.data.faces import FaceDetector
from safa.data.fetch import Fetcher, fetched, make_fetcher
from safa.data.landmarks import sidecar_names
from safa.data.places import local_copy, name_of
from safa.data.schema import Code, Refused
from safa.data.sources import ClipJob
from safa.data.tube_finder import find_tubes, write_tubes

DETAIL = 500  # characters of an explanation

# ``{id, code, detail, n_frames, seconds}``; an empty code means that it is done.
Status = dict[str, Any]


class ClipMaker:
    """Makes the clips of one video and writes their files.

    Networks are loaded and the fetcher is made when the first row comes, on the worker.
    """

    def __init__(self, config: PreprocessConfig) -> None:
        self._config = config
        self._fetcher: Fetcher | None = None
        self._find: FindLandmarks | None = None
        self._blocked = ""

    def __call__(self, row: dict[str, Any]) -> list[Status]:
        """Row ``{jobs}``, clips of one video as text, to the status of each."""
        jobs = [ClipJob.from_json(text) for text in row["jobs"]]
        if self._blocked:  # don't knock again where we were sent away
            return [_status(job.clip_id, Code.BLOCKED, self._blocked) for job in jobs]
        made: list[Status] = []
        try:
            with self._video(jobs[0]) as video:
                for job in jobs:
                    made.append(self._make(replace(job, video=str(video))))
        except Refused as refusal:  # of the whole video
            if refusal.code == Code.BLOCKED:
                self._blocked = refusal.detail
            made += [_status(job.clip_id, refusal.code, refusal.detail) for job in jobs[len(made) :]]
        except Exception as error:
            made += [_unexpected(job.clip_id, error) for job in jobs[len(made) :]]
        return made

    def _make(self, job: ClipJob) -> Status:
        return _tried(job.clip_id, lambda: make_clip(job, self._config, self._finder()))

    def _video(self, job: ClipJob) -> AbstractContextManager[Path]:
        source = self._config.source
        if not isinstance(source, MetadataSource) or source.fetch is None:
            return local_copy(job.video, _sidecars(name_of(job.video)))
        self._fetcher = self._fetcher or make_fetcher(source.fetch)
        return fetched(job.video_id, source, self._fetcher)

    def _finder(self) -> FindLandmarks | None:
        if self._find is None and isinstance(self._config.landmarks, FaceAlignmentLandmarks):
            from safa.data.faces.library import LibraryLandmarks  # heavy, and not everybody has it

            self._find = LibraryLandmarks(self._config.landmarks)
        return self._find


class TubeFinder:
    """Finds the tubes of one raw video and writes their file."""

    def __init__(self, source: VideosSource, fps: float, folder: Path) -> None:
        self._source, self._fps, self._folder = source, fps, folder
        self._detector: FaceDetector | None = None

    def __call__(self, row: dict[str, Any]) -> Status:
        """Row ``{video}``, a path or an address, to its status; ``n_frames`` counts the clips found."""
        return _tried(name_of(row["video"]), lambda: self._find(row["video"]))

    def _find(self, place: str) -> int:
        if self._detector is None:
            from safa.data.faces.library import LibraryDetector

            self._detector = LibraryDetector(self._source.detector)
        with local_copy(place) as video:
            tubes = find_tubes(video, self._source, self._fps, self._detector)
        write_tubes(self._folder, tubes)
        return len(tubes.clips)


class Nothing:
    """Does nothing to a row: what is left is Ray's own cost, for the benchmark."""

    def __init__(self, config: PreprocessConfig) -> None:
        """The settings make no difference."""

    def __call__(self, row: dict[str, Any]) -> list[Status]:
        """Every clip is done at once."""
        ids = [ClipJob.from_json(text).clip_id for text in row["jobs"]]
        return [{"id": name, "code": "", "detail": "", "n_frames": 0, "seconds": 0.0} for name in ids]


def _sidecars(video: str) -> list[str]:
    """What may lie beside a video of this name, or beside a folder of pictures, which has no ending."""
    return [*sidecar_names(PurePath(video).stem), *sidecar_names(video)]


def _tried(name: str, work: Callable[[], int]) -> Status:
    began = time.monotonic()
    try:
        count = work()
    except Refused as refusal:
        return _status(name, refusal.code, refusal.detail)
    except Exception as error:
        return _unexpected(name, error)
    return {"id": name, "code": "", "detail": "", "n_frames": count, "seconds": time.monotonic() - began}


def _unexpected(name: str, error: Exception) -> Status:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{Path(frame.filename).name}:{frame.lineno}"
    return _status(name, Code.UNEXPECTED, f"{type(error).__name__} at {place}: {error}")


def _status(name: str, code: Code, detail: str) -> Status:
    words = " ".join(detail.split())[:DETAIL]
    return {"id": name, "code": str(code), "detail": words, "n_frames": 0, "seconds": 0.0}
