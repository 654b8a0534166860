"""Landmarks from sidecar files beside a video, and the video's frames that a stored frame shows.

There are two kinds of sidecar: ``<video>.landmarks.npy``, (T, 68, 2) float32 in source pixels, NaN where no
face is; and the reference's ``<video>.pkl``, a dictionary frame -> {'ldmk': (68, 2)} or
frame -> (68, 2), read as plain data. Points are continuous (0 is the left edge of the first pixel); both
kinds count the video's own frames.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from safa.array_files import map_npy
from safa.data.schema import NUM_LANDMARKS
from safa.decimals import whole
from safa.errors import ClipError, FailureCode, UserError
from safa.files import Location, is_file, is_uri, join, local_copy

Points = NDArray[np.float32]
Scores = NDArray[np.float32]
MAX_FRAMES = 1_000_000  # of a landmark pickle: nine hours of video; a larger number is damage
SPARSE_FRAMES = 300_000  # a table that reaches further lists at least one frame in MAX_GAP
MAX_GAP = 100


@dataclass(frozen=True)
class Landmarks:
    """Landmarks of some frames: ``points`` (T, 68, 2) px, NaN where no face is; detector ``scores`` (T,)."""

    points: Points
    scores: Scores


def no_landmarks(count: int) -> Landmarks:
    """Landmarks of ``count`` frames without a face."""
    points = np.full((count, NUM_LANDMARKS, 2), np.nan, np.float32)
    return Landmarks(points, np.full(count, np.nan, np.float32))


def sidecar_names(stem: str) -> tuple[str, str]:
    """Names of the files that may hold a video's landmarks, the preferred one first."""
    return f"{stem}.landmarks.npy", f"{stem}.pkl"


def sidecar_of(video: Path, folder: Path | None = None) -> Path:
    """Path of a video's landmarks: beside it, or in a folder of landmarks."""
    return (folder or video.parent) / sidecar_names(_stem(video))[0]


def sidecar_there(video: Path) -> Path | None:
    """The landmarks that lie beside a video; None if there are none."""
    paths = (video.with_name(name) for name in sidecar_names(_stem(video)))
    return next((path for path in paths if is_file(path)), None)


def _stem(video: Path) -> str:
    return video.name if video.is_dir() else video.stem  # a folder of PNGs has no suffix


def read_sidecar(video: Path, folder: Location | None = None) -> Points:
    """Read the landmarks of a video, (T, 68, 2) in its pixels.

    An ``.npy`` on a disk is mapped, so slices are cheap; one in an object store is read as a whole.

    Args:
        folder: where the sidecar is, if not beside the video.

    Raises:
        ClipError: ``no_landmarks`` if there is no sidecar, ``decode`` if it is not one, or as ``local_copy``.
    """
    if folder is not None and is_uri(folder):
        names = sidecar_names(_stem(video))
        with local_copy(str(join(folder, names[0])), names[1:]) as copy:
            return np.array(_read_sidecar(video, copy.parent))
    return _read_sidecar(video, Path(folder) if folder is not None else None)


def _read_sidecar(video: Path, folder: Path | None) -> Points:
    path = sidecar_of(video, folder)
    if not is_file(path):
        pickled = path.with_name(sidecar_names(_stem(video))[1])
        if is_file(pickled):
            return _read_pickle(pickled)
        raise ClipError(FailureCode.NO_LANDMARKS, f"{path.name} is missing")
    try:
        points = map_npy(path)
    except UserError as error:
        raise ClipError(FailureCode.DECODE, f"{path.name}: {error.what}") from None
    if points.ndim != 3 or points.shape[1:] != (NUM_LANDMARKS, 2) or points.dtype.kind != "f":
        raise ClipError(
            FailureCode.DECODE, f"{path.name} is {points.dtype} {points.shape}, not floats (T, 68, 2)"
        )
    mapped: Points = points
    return mapped


def _read_pickle(path: Path) -> Points:
    from safa.safe_pickle import load_data_pickle  # torch, which workers that crop and write can do without

    try:
        with path.open("rb") as file:
            return points_of_dictionary(load_data_pickle(file, path.name))
    except (OSError, ValueError) as error:
        raise ClipError(FailureCode.DECODE, f"{path.name}: {error}") from None
    except UserError as error:
        raise ClipError(FailureCode.DECODE, str(error)) from None


def points_of_dictionary(table: Any) -> Points:
    """Convert the reference's landmark table to one array.

    Args:
        table: frame -> {'ldmk': (68, 2)}, or frame -> (68, 2); None where no face is.
            A frame is a number or a file name that is one (``0000012.png``).

    Returns:
        (T, 68, 2) float32 for frames 0 to the last one listed; NaN where a frame is not listed.

    Raises:
        ValueError: anything else, or a few frames with numbers so high that the array would be all gaps.
    """
    if not isinstance(table, Mapping) or not table:
        raise ValueError("not a dictionary of frames")
    numbers = [_frame_number(key) for key in table]
    last = max(numbers)
    if last >= SPARSE_FRAMES and last >= MAX_GAP * len(numbers):
        raise ValueError(f"{len(numbers)} frames up to number {last} are not the table of a video")
    points = np.full((last + 1, NUM_LANDMARKS, 2), np.nan, dtype=np.float32)
    for number, value in zip(numbers, table.values(), strict=True):
        face = _ldmk(value)
        if face is not None:
            points[number] = face
    return points


def _frame_number(key: object) -> int:
    number = whole(PurePath(key).stem) if isinstance(key, str) else key
    if isinstance(number, np.integer):
        number = int(number)
    if type(number) is not int or not 0 <= number < MAX_FRAMES:
        raise ValueError(f"{key!r} is not the number of a frame"[:80])
    return number


def _ldmk(value: object) -> Points | None:
    """The points of one frame; None where no face was found."""
    face = value.get("ldmk") if isinstance(value, Mapping) else value
    if face is None:
        return None
    points = np.asarray(face)
    if points.shape != (NUM_LANDMARKS, 2) or points.dtype.kind not in "fiu":
        raise ValueError(f"landmarks of {points.dtype} {points.shape}, not (68, 2)")
    with np.errstate(over="ignore"):  # a number beyond float32 is infinite there, and no place in a picture
        return points.astype(np.float32)


def source_frames_at(numbers: NDArray[np.int64], source_fps: float, fps: float) -> NDArray[np.int64]:
    """Which source frame each of the output frames ``numbers`` shows; they may lie far into a video.

    Both have a constant rate. Source frame k takes the output position round(k * fps / source_fps), and at
    position n the last frame is shown whose position is not after n.
    """
    if len(numbers) == 0 or source_fps == fps:
        return numbers
    # Only the source frames around these: a two-hour video has 200,000.
    first = max(0, int(np.floor(numbers.min() * source_fps / fps)) - 2)
    last = int(np.ceil((numbers.max() + 1) * source_fps / fps)) + 2
    sources = np.arange(first, last + 1)
    positions = np.floor(sources * fps / source_fps + 0.5)
    shown: NDArray[np.int64] = sources[np.searchsorted(positions, numbers, side="right") - 1]
    return shown
