"""Face detection: what a detector returns, and the choice among several faces.

``FaceDetector`` is all that the rest of the program knows of detection; ``face_alignment`` implements it with
the package of that name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Face:
    """A detected face: a box in pixels of its frame, continuous, and a score in [0, 1]."""

    left: float
    top: float
    right: float
    bottom: float
    score: float

    @property
    def area(self) -> float:
        return max(0.0, self.right - self.left) * max(0.0, self.bottom - self.top)

    def scaled(self, factor_x: float, factor_y: float) -> Face:
        """The same face in a frame of another resolution."""
        return Face(
            self.left * factor_x,
            self.top * factor_y,
            self.right * factor_x,
            self.bottom * factor_y,
            self.score,
        )


class FaceDetector(Protocol):
    """Detects faces in frames."""

    def detect(self, frames: Sequence[NDArray[np.uint8]]) -> list[tuple[Face, ...]]:
        """Detect all faces of each frame; frames are (H, W, 3) uint8 RGB of one size."""
        ...


def iou(a: Face, b: Face) -> float:
    """Area of the overlap of two boxes over the area that they cover together, 0 to 1."""
    width = min(a.right, b.right) - max(a.left, b.left)
    height = min(a.bottom, b.bottom) - max(a.top, b.top)
    if width <= 0 or height <= 0:
        return 0.0
    overlap = width * height
    return overlap / (a.area + b.area - overlap)


def chosen(
    faces: Sequence[Face], how: Literal["largest", "nearest"], point: tuple[float, float]
) -> Face | None:
    """The face that is meant: the largest, or the one whose middle is nearest to ``point``; None of none."""
    if not faces:
        return None
    if how == "largest":
        return max(faces, key=lambda face: face.area)

    def distance(face: Face) -> float:
        x, y = (face.left + face.right) / 2, (face.top + face.bottom) / 2
        return (x - point[0]) ** 2 + (y - point[1]) ** 2

    return min(faces, key=distance)
