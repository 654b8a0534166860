"""Faces in frames: what detectors, landmark networks and identity networks give, and the choice among faces.

These protocols are all that the rest of the program knows of them. ``face_alignment`` implements detection
and landmarks with the package of that name, ``dlib_faces`` all three with dlib.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from safa.data.landmarks import Landmarks

SAME_BOX = 0.5  # least overlap (IoU) of two boxes of one face in the same frame


@dataclass(frozen=True, slots=True)
class Face:
    """A detected face: a box in pixels of its frame, continuous, and a score in [0, 1].

    ``embedding`` (D,) float32 says who it is, where an identity network has looked.
    """

    left: float
    top: float
    right: float
    bottom: float
    score: float
    embedding: NDArray[np.float32] | None = field(default=None, compare=False)

    @property
    def area(self) -> float:
        return max(0.0, self.right - self.left) * max(0.0, self.bottom - self.top)

    def scaled(self, factor_x: float, factor_y: float) -> Face:
        """The same face in a frame of another resolution."""
        return replace(
            self,
            left=self.left * factor_x,
            top=self.top * factor_y,
            right=self.right * factor_x,
            bottom=self.bottom * factor_y,
        )


class FaceDetector(Protocol):
    """Detects faces in frames."""

    def detect(self, frames: Sequence[NDArray[np.uint8]]) -> list[tuple[Face, ...]]:
        """Detect all faces of each frame; frames are (H, W, 3) uint8 RGB of one size."""
        ...


@runtime_checkable
class NearDetector(FaceDetector, Protocol):
    """A detector that can also look near the place where a face was."""

    def near(self, frame: NDArray[np.uint8], face: Face) -> tuple[Face, ...]:
        """Detect the faces of a frame (H, W, 3) around the place of a face that the frame before had."""
        ...


class CloserDetector(NearDetector, Protocol):
    """A detector that can also look closer and closer at a frame."""

    def searches(self, frame: NDArray[np.uint8]) -> Iterator[tuple[Face, ...]]:
        """Search a frame (H, W, 3) again and again, each time for smaller faces; known ones may recur."""
        ...


class LandmarkNetwork(Protocol):
    """Estimates landmarks of faces that were detected."""

    def landmarks(self, frames: Sequence[NDArray[np.uint8]], faces: Sequence[Face]) -> NDArray[np.float32]:
        """Estimate the landmarks (N, 68, 2) px of one face in each of N frames (H, W, 3)."""
        ...


class IdentityNetwork(Protocol):
    """Embeds faces, so that those of one person lie near each other."""

    def embeddings(
        self, frames: Sequence[NDArray[np.uint8]], points: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Embed the faces with landmarks (N, 68, 2) px of N frames: (N, D), NaN where the landmarks are."""
        ...


class FaceEmbedder(Protocol):
    """Embeds detected faces, so that those of one person lie near each other."""

    def __call__(self, frame: NDArray[np.uint8], faces: Sequence[Face]) -> NDArray[np.float32]:
        """Embed the faces of a frame (H, W, 3): (N, D)."""
        ...


class LandmarkDetector(Protocol):
    """Detector and landmarks together, of stored frames."""

    def __call__(self, frames: Sequence[NDArray[np.uint8]]) -> Landmarks:
        """Find the landmarks of the chosen face of each frame (S, S, 3); NaN where there is none."""
        ...


def iou(a: Face, b: Face) -> float:
    """Area of the overlap of two boxes over the area that they cover together, 0 to 1."""
    width = min(a.right, b.right) - max(a.left, b.left)
    height = min(a.bottom, b.bottom) - max(a.top, b.top)
    if width <= 0 or height <= 0:
        return 0.0
    overlap = width * height
    return overlap / (a.area + b.area - overlap)


def unlike(faces: Sequence[Face], known: Sequence[Face]) -> list[Face]:
    """Those of the faces that are none of the known ones: they overlap none of them by half."""
    return [face for face in faces if all(iou(face, other) < SAME_BOX for other in known)]


def all_faces(detector: CloserDetector, frame: NDArray[np.uint8]) -> list[Face]:
    """Detect all faces of a frame (H, W, 3), the small ones beside large ones, too."""
    found: list[Face] = []
    for faces in detector.searches(frame):
        found += unlike(faces, found)
    return found


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
