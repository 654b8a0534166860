"""Functions and actors that Ray Data runs on workers. They contain no mathematics: ``safa`` does the work.

A row stands for one input. Its outcome is written into the row (``ok_row``, ``failure_row``), so that one bad
clip never stops a run.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from pipelines.worker_deaths import Attempts
from safa.config.preprocess import VideosSource
from safa.data.detectors import FaceDetector, FaceEmbedder
from safa.data.detectors.loading import load_detector, load_embedder
from safa.data.face_tracks import find_face_tracks, write_tracks
from safa.errors import Failure, FailureCode
from safa.files import Location, join, local_copy, name_of

FACE_TRACKS = "face_tracks"  # folder in a run folder of preprocess

# ``{id, code, detail, n_frames, seconds}``; an empty code means that the input became output.
Row = dict[str, Any]


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


class FaceTrackFinder:
    """Finds the face tracks of one raw video and writes their file."""

    def __init__(self, source: VideosSource, fps: float, out: Location) -> None:
        self._source, self._fps, self._folder = source, fps, join(out, FACE_TRACKS)
        self._attempts = Attempts(out)
        self._detector: FaceDetector | None = None
        self._embedder: FaceEmbedder | None = None

    def __call__(self, row: Row) -> Row:
        """Turn a row ``{video}``, a path or URI, into its outcome; ``n_frames`` counts the clips found."""
        return _attempt(name_of(row["video"]), lambda: self._find(row["video"]))

    def _find(self, location: str) -> int:
        if self._detector is None:
            self._detector = load_detector(self._source.detector)
            self._embedder = load_embedder(self._source)
        with self._attempts.mark(f"{FACE_TRACKS}/{location}") as deaths, local_copy(location) as video:
            self._attempts.give_up_after(deaths)
            tracks = find_face_tracks(video, self._source, self._fps, self._detector, self._embedder)
        write_tracks(self._folder, tracks)
        return len(tracks.clips)
