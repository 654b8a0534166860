"""The face finder that is here, if any: a detector of ``safa.data.faces``, and squares from its boxes.

A detector is here when its weights lie in the assets folder and the face-alignment package is installed; the
package is found by name, never imported to find out.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from safa.data.faces import Face, FaceDetector, iou
from safa.inference.framing import NO_FACE, FaceFinder
from safa.pictures.canvas import Picture

ASSETS = Path("assets")  # where `safa assets check` looks, too
# Best first. The first file is the network; px: longer side of what it is shown.
Detector = Literal["sfd", "blazeface_back", "blazeface"]
DETECTORS: dict[Detector, tuple[tuple[str, ...], int]] = {
    "sfd": (("s3fd-619a316812.pth",), 640),
    "blazeface_back": (("blazefaceback.pth", "anchorsback.npy"), 256),
    "blazeface": (("blazeface.pth", "anchors.npy"), 128),
}
BATCH = 8
SAME_FACE = 0.1  # least overlap (IoU) with the last frame's face to be the same one
# BlazeFace's boxes against landmarks' squares: medians over four photos and three films (spread 0.1, 0.02).
BOX_MARGIN = 1.7  # side of the square over the longer side of the box
BOX_RISE = 0.08  # how far its centre lies above the box's, in sides


@dataclass(frozen=True)
class Available:
    """What could find faces here.

    Attributes:
        package: whether face-alignment is installed.
        detector: the best detector whose weights are there, or None.
        folder: where was looked.
    """

    package: bool
    detector: Detector | None
    folder: Path


def available(folder: Path = ASSETS) -> Available:
    """Look for package and weights; loads neither."""
    names = (name for name, (files, _) in DETECTORS.items() if all((folder / f).is_file() for f in files))
    return Available(importlib.util.find_spec("face_alignment") is not None, next(names, None), folder)


def load_finder(device: torch.device, folder: Path = ASSETS) -> FaceFinder | None:
    """The face finder that is here; None if package or weights are missing.

    Raises:
        UserError: weights that are not what their name says.
    """
    found = available(folder)
    if not found.package or found.detector is None:
        return None
    from safa.config.preprocess import DetectorConfig
    from safa.data.faces.library import LibraryDetector  # imports face-alignment, which takes seconds

    config = DetectorConfig(name=found.detector, weights=folder, batch=BATCH, device=str(device))
    return DetectorFinder(LibraryDetector(config), DETECTORS[found.detector][1])


class DetectorFinder:
    """Follows the largest face of the first frame that shows one.

    Args:
        side: px, longer side of the frames that the detector is shown.
    """

    def __init__(self, detector: FaceDetector, side: int) -> None:
        self._detector, self._side = detector, side

    def squares(self, frames: Iterable[Picture]) -> Iterator[NDArray[np.float64]]:
        """For each frame its square (3,), NaN where the face is not; in order."""
        iterator, last = iter(frames), None
        while chosen := list(islice(iterator, BATCH)):
            shown = [_shown(frame, self._side) for frame in chosen]
            found = self._detector.detect([picture for picture, _ in shown])
            for faces, (_, scale) in zip(found, shown, strict=True):
                face = _same(faces, last)
                last = face or last
                yield NO_FACE if face is None else square_of_face(face) / scale

    def faces(self, frame: Picture) -> list[NDArray[np.float64]]:
        """Squares of all faces of one picture, the largest first."""
        picture, scale = _shown(frame, self._side)
        faces = sorted(self._detector.detect([picture])[0], key=lambda face: -face.area)
        return [square_of_face(face) / scale for face in faces]


def square_of_face(face: Face) -> NDArray[np.float64]:
    """A detector's box to the square that the model wants."""
    side = BOX_MARGIN * max(face.right - face.left, face.bottom - face.top)
    x, y = (face.left + face.right) / 2, (face.top + face.bottom) / 2
    return np.array([x, y - BOX_RISE * side, side], np.float64)


def _same(faces: Iterable[Face], last: Face | None) -> Face | None:
    """The face that was followed so far; the largest one at the start, or when that one is lost."""
    ordered = sorted(faces, key=lambda face: -face.area)
    if last is None or not ordered:
        return ordered[0] if ordered else None
    nearest = max(ordered, key=lambda face: iou(face, last))
    return nearest if iou(nearest, last) >= SAME_FACE else ordered[0]


def _shown(frame: Picture, side: int) -> tuple[Picture, float]:
    """The frame scaled to ``side`` px and padded to a square, and by what it was scaled."""
    height, width = frame.shape[:2]
    scale = side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    square = np.zeros((side, side, 3), np.uint8)
    square[: size[1], : size[0]] = np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BOX))
    return square, scale
