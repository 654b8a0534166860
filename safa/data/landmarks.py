"""Landmark sidecars: ``<video>.landmarks.npy``, (T, 68, 2) float32 in source pixels, NaN where no face is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from safa.data.schema import NUM_LANDMARKS, Code, Refused

Points = NDArray[np.float32]


def sidecar_of(video: Path) -> Path:
    """Where a video's landmarks lie."""
    return video.with_suffix(".landmarks.npy")


def read_sidecar(video: Path) -> Points:
    """All landmarks of a video.

    Raises:
        Refused: ``no_landmarks`` if there is no sidecar, ``decode`` if it is not one.
    """
    path = sidecar_of(video)
    try:
        points = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise Refused(Code.NO_LANDMARKS, f"{path.name} is missing") from None
    except (OSError, ValueError, EOFError) as error:
        raise Refused(Code.DECODE, f"{path.name}: {error}") from None
    if points.ndim != 3 or points.shape[1:] != (NUM_LANDMARKS, 2) or points.dtype.kind != "f":
        raise Refused(Code.DECODE, f"{path.name} is {points.dtype} {points.shape}, not floats (T, 68, 2)")
    return np.asarray(points, dtype=np.float32)


def shown_frames(count: int, source_fps: float, fps: float) -> NDArray[np.int64]:
    """Which source frame each of ``count`` output frames shows after ffmpeg's ``fps`` filter.

    The filter gives source frame k the place round(k * fps / source_fps) and shows at place n the last frame
    whose place is not after n.
    """
    reach = int(np.ceil((count + 1) * source_fps / fps)) + 1
    places = np.floor(np.arange(reach + 1) * fps / source_fps + 0.5)
    shown: NDArray[np.int64] = np.searchsorted(places, np.arange(count), side="right") - 1
    return shown
