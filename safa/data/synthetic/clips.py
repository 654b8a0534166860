"""Which parts of a video are clips, and the box around the face of each, as VoxCeleb's lists give them."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from safa.data.crop import Box
from safa.data.synthetic.truth import Floats

# Where the box of VoxCeleb-style crops lies around the landmarks of a clip (measured on example crops):
# brows to chin fill 0.3 to 0.9 of the height, with the face in the middle.
_TOP, _BOTTOM = 0.31, 0.90
_SIDES = 0.06  # at least this much room left and right, of the box


Spans = tuple[tuple[int, int], ...]  # (start, end) frames, end exclusive


def cut(rng: Generator, frames: int, two: bool) -> Spans:
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
    side = min(_side(points), height, width)
    left = _shifted((x0 + x1 - side) / 2, side, (x0, x1), width)
    top = _shifted(y0 - _TOP * side, side, (y0, y1), height)
    return Box(left, top, left + side, top + side)


def _side(points: Floats) -> int:
    """Side of the box around (N, 2) points in a frame without borders."""
    width, height = np.ptp(points, axis=0)
    return int(np.ceil(max(height / (_BOTTOM - _TOP), width / (1 - 2 * _SIDES))))


def _shifted(start: float, side: int, inside: tuple[float, float], length: int) -> int:
    """``start``, moved so that [start, start + side] holds ``inside`` and lies in 0..length."""
    start = min(start, inside[0])
    start = max(start, inside[1] - side)
    return int(np.ceil(np.clip(start, 0, length - side)))


def travel(landmarks: Floats) -> float:
    """Mean way of a clip's landmarks (T, 68, 2) from its first frame, as a share of the box around them."""
    way = np.linalg.norm(landmarks - landmarks[:1], axis=-1).mean()
    return float(way / _side(landmarks.reshape(-1, 2)))
