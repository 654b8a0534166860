"""Which parts of a video are clips, and the box around the face of each, as VoxCeleb's lists give them."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from safa.data.crop import Box
from safa.data.synthetic.truth import Clip, Floats

# Where the box of VoxCeleb-style crops lies around the landmarks of a clip (measured on example crops):
# brows to chin fill 0.3 to 0.9 of the height, with the face in the middle.
_TOP, _BOTTOM = 0.31, 0.90
_SIDES = 0.06  # at least this much room left and right, of the box


def cut(rng: Generator, frames: int, two: bool) -> tuple[tuple[int, int], ...]:
    """One or two (start, end) spans inside a video, a few frames away from its ends and from each other."""
    margin = max(1, min(6, frames // 20))
    start, end = (int(rng.integers(1, margin + 1)) for _ in range(2))
    if not two:
        return ((start, frames - end),)
    middle = frames // 2
    return ((start, middle - 1), (middle + 1, frames - end))


def face_box(landmarks: Floats, frame_size: tuple[int, int]) -> Box:
    """A square around the whole face track (T, 68, 2), within the frame."""
    height, width = frame_size
    points = landmarks.reshape(-1, 2)
    (x0, y0), (x1, y1) = points.min(axis=0), points.max(axis=0)
    side = max((y1 - y0) / (_BOTTOM - _TOP), (x1 - x0) / (1 - 2 * _SIDES))
    side = min(np.ceil(side), height, width)
    left = _shifted((x0 + x1 - side) / 2, side, (x0, x1), width)
    top = _shifted(y0 - _TOP * side, side, (y0, y1), height)
    return Box(left, top, left + int(side), top + int(side))


def _shifted(start: float, side: float, inside: tuple[float, float], length: int) -> int:
    """``start``, moved so that [start, start + side] holds ``inside`` and lies in 0..length."""
    start = min(start, inside[0])
    start = max(start, inside[1] - side)
    return int(np.ceil(np.clip(start, 0, length - side)))


def mean_way(landmarks: Floats) -> float:
    """Mean distance (px) of the landmarks (T, 68, 2) from where they are in the first frame."""
    return float(np.linalg.norm(landmarks - landmarks[:1], axis=-1).mean())


def motion(landmarks: Floats, clip: Clip) -> float:
    """Mean way of the landmarks from the clip's first frame, as a share of the box."""
    return mean_way(landmarks[clip.start : clip.end]) / clip.box.height
