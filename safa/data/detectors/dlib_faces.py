"""Faces by dlib: a detector, the 68 landmarks, and an embedding of who it is. Only this file knows dlib.

The code comes from the package dlib-bin, the two networks from face-recognition-models 0.1.3. That package
cannot be imported (it needs ``pkg_resources``, which setuptools no longer has), so its files are read where
they lie. The landmarks were learned from the iBUG 300-W pictures, which are for research alone.

Networks are loaded once for each process, and are not shared with other processes: they cannot be pickled.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import threading
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from safa.data.detectors import Face
from safa.data.schema import NUM_LANDMARKS
from safa.errors import UserError
from safa.files import check_regular
from safa.messages import INSTALL_DLIB
from safa.reading import boundary

POINTS_FILE = "shape_predictor_68_face_landmarks.dat"
IDENTITY_FILE = "dlib_face_recognition_resnet_model_v1.dat"
IDENTITY_SIZE = 128  # numbers of an embedding

# The detector finds faces from about 80 px on, so the longer side of a frame is scaled to the first of these,
# and to the next where that shows no face: faces of an eighth and a sixteenth of the side are found.
SIDES = (640, 1280)
PHOTO_SIDES = (640, 1280, 2560)  # of a photo, which costs once what a frame costs again and again
CROP_SIDES = (256, 512)  # the same for pictures that are cropped to a face
MOST_ENLARGED = 4.0  # a frame is not enlarged more for a second search: no face of 20 px is of use
NEAR_FACE = 96.0  # px; near a known face, pictures are scaled so that it has this side
NEAR_REACH = 2.0  # side of the area that is searched near a face, in sides of the face
NEAR_THRESHOLD = -0.5  # there, of dlib's own score, which is 0 elsewhere: turned heads score low
POINTS_FACE = 200.0  # px; landmarks are whole pixels, so they are found in a picture of a face of this side
POINTS_REACH = 1.6  # side of that picture, in sides of the face
MOST_AVERAGED = 4  # a side, pixels of a frame that become one
CHIP_SIDE, CHIP_PADDING = 150, 0.25  # of the picture that the identity network sees, as it was trained

Points = NDArray[np.float32]
_lock = threading.Lock()  # dlib's networks are changed while they compute


def missing() -> str:
    """Say what dlib lacks here; an empty text if nothing."""
    if importlib.util.find_spec("dlib") is None:
        return "the package dlib-bin is not installed"
    try:
        importlib.import_module("dlib")
    except Exception as error:  # a damaged or foreign binary raises whatever it likes
        return f"dlib cannot be imported ({type(error).__name__}: {str(error)[:100]})"
    folder = models_folder()
    if folder is None:
        return "the package face-recognition-models is not installed"
    lacking = [name for name in (POINTS_FILE, IDENTITY_FILE) if not (folder / name).is_file()]
    return f"face-recognition-models lacks {lacking[0]}" if lacking else ""


def models_folder() -> Path | None:
    """Where face-recognition-models has its files; the package is not imported. None: it isn't installed."""
    found = importlib.util.find_spec("face_recognition_models")
    places = found.submodule_search_locations if found else None
    return Path(next(iter(places))) / "models" if places else None


def check() -> None:
    """Load the networks once.

    Raises:
        UserError: a package is missing, or a file is not what its name says.
    """
    _detector()
    _predictor()
    _identity()


class DlibDetector:
    """A ``FaceDetector``: histograms of gradients, five views from left to right (Felzenszwalb's pyramid).

    Args:
        sides: px, the sizes at which a frame is searched until a face is found.
        threshold: least score of a face, in (0, 1); 0.5 is dlib's own.

    Raises:
        UserError: as ``check``.
    """

    def __init__(self, sides: Sequence[int] = SIDES, threshold: float = 0.5) -> None:
        self._sides, self._least = tuple(sides), math.log(threshold / (1 - threshold))
        self._run = _detector().run

    def detect(self, frames: Sequence[NDArray[np.uint8]]) -> list[tuple[Face, ...]]:
        """Detect all faces of each frame (H, W, 3), at the first size that shows any."""
        return [self._detect(frame) for frame in frames]

    def near(self, frame: NDArray[np.uint8], face: Face) -> tuple[Face, ...]:
        """Detect faces around the place where the frame before had one; surer than ``detect``, and faster."""
        side = _side(face)
        area = _area(frame, face, NEAR_REACH * side)
        return self._search(frame, area, NEAR_FACE / side, NEAR_THRESHOLD)

    def searches(self, frame: NDArray[np.uint8]) -> Iterator[tuple[Face, ...]]:
        """Search a frame (H, W, 3) at one size after another."""
        height, width = frame.shape[:2]
        for number, side in enumerate(self._sides):
            scale = side / max(height, width)
            if number == 0 or scale <= MOST_ENLARGED:
                yield self._search(frame, (0, 0, width, height), scale, self._least)

    def _detect(self, frame: NDArray[np.uint8]) -> tuple[Face, ...]:
        return next((faces for faces in self.searches(frame) if faces), ())

    def _search(
        self, frame: NDArray[np.uint8], area: tuple[int, int, int, int], scale: float, least: float
    ) -> tuple[Face, ...]:
        picture, (scale_x, scale_y) = _picture(frame, area, scale)
        with _lock:
            boxes, scores, _ = self._run(picture, 0, least)
        left, top = area[:2]
        return tuple(
            Face(
                left + box.left() / scale_x,
                top + box.top() / scale_y,
                left + (box.right() + 1) / scale_x,
                top + (box.bottom() + 1) / scale_y,
                1 / (1 + math.exp(-score)),
            )
            for box, score in zip(boxes, scores, strict=True)
        )


class DlibLandmarks:
    """A ``LandmarkNetwork``: 68 points by a cascade of regression trees (Kazemi and Sullivan, CVPR 2014).

    Raises:
        UserError: as ``check``.
    """

    def __init__(self) -> None:
        self._predict = _predictor()

    def landmarks(self, frames: Sequence[NDArray[np.uint8]], faces: Sequence[Face]) -> Points:
        """Estimate the landmarks (N, 68, 2) px of one face in each of N frames (H, W, 3)."""
        found = [self._points(frame, face) for frame, face in zip(frames, faces, strict=True)]
        return np.stack(found) if found else np.empty((0, NUM_LANDMARKS, 2), np.float32)

    def _points(self, frame: NDArray[np.uint8], face: Face) -> Points:
        import dlib

        area = _area(frame, face, POINTS_REACH * _side(face))
        picture, scale = _picture(frame, area, POINTS_FACE / _side(face))
        corner, factor = np.array(area[:2]), np.array(scale)
        low = (np.array([face.left, face.top]) - corner) * factor
        high = (np.array([face.right, face.bottom]) - corner) * factor
        high -= 1  # dlib's boxes include their last pixel
        box = dlib.rectangle(*(round(float(value)) for value in (*low, *high)))
        with _lock:
            parts = self._predict(picture, box).parts()
        points = np.array([(part.x + 0.5, part.y + 0.5) for part in parts])
        placed: Points = (points / factor + corner).astype(np.float32)
        return placed


class DlibIdentity:
    """An ``IdentityNetwork``: 128 numbers. Pictures of one person are less than 0.6 apart (dlib's figure).

    Raises:
        UserError: as ``check``.
    """

    def __init__(self) -> None:
        self._embed = _identity()

    def embeddings(self, frames: Sequence[NDArray[np.uint8]], points: Points) -> NDArray[np.float32]:
        """Embed the faces with landmarks (N, 68, 2) px of N frames: (N, 128), NaN where the landmarks are."""
        found = np.full((len(frames), IDENTITY_SIZE), np.nan, np.float32)
        for number, (frame, face) in enumerate(zip(frames, points, strict=True)):
            if np.isfinite(face).all():
                chip = _chip(frame, face)
                with _lock:
                    found[number] = np.asarray(self._embed.compute_face_descriptor(chip), np.float32)
        return found


# ---- pictures ----------------------------------------------------------------------------------------------


def _side(face: Face) -> float:
    return max(face.right - face.left, face.bottom - face.top, 1.0)


def _area(frame: NDArray[np.uint8], face: Face, side: float) -> tuple[int, int, int, int]:
    """The square of this side around a face, cut off at the frame's edges; at least a pixel of it is left."""
    height, width = frame.shape[:2]
    x, y = (face.left + face.right) / 2, (face.top + face.bottom) / 2
    left, top = (min(max(0, int(v - side / 2)), size - 1) for v, size in ((x, width), (y, height)))
    right, bottom = (math.ceil(v + side / 2) for v in (x, y))
    return left, top, min(max(right, left + 1), width), min(max(bottom, top + 1), height)


def _picture(
    frame: NDArray[np.uint8], area: tuple[int, int, int, int], scale: float
) -> tuple[NDArray[np.uint8], tuple[float, float]]:
    """An area of a frame in grey, scaled; also the scales of x and y after rounding to whole pixels."""
    left, top, right, bottom = area
    size = max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale))
    step = max(1, int(1 / (MOST_AVERAGED * scale)))  # of 200 megapixels not all are needed
    part = Image.fromarray(np.ascontiguousarray(frame[top:bottom:step, left:right:step]))
    # Averaging first keeps a large photo cheap.
    grey = part.convert("L").resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
    return np.asarray(grey), (size[0] / (right - left), size[1] / (bottom - top))


def _chip(frame: NDArray[np.uint8], points: Points) -> NDArray[np.uint8]:
    """The picture (150, 150, 3) that the identity network sees: upright, the face in its middle."""
    import dlib

    low, high = points.min(axis=0), points.max(axis=0)
    face = Face(float(low[0]), float(low[1]), float(high[0]), float(high[1]), 1.0)
    side = 2.4 * _side(face)
    left, top, right, bottom = _area(frame, face, side)
    scale = min(1.0, 2 * POINTS_FACE / _side(face))  # a small face stays as it is
    size = max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale))
    part = Image.fromarray(np.ascontiguousarray(frame[top:bottom, left:right]))
    picture = np.asarray(part.resize(size, Image.Resampling.BOX))
    factor = np.array([size[0] / (right - left), size[1] / (bottom - top)])
    placed = np.rint((points - np.array([left, top])) * factor - 0.5).astype(int)
    box = dlib.rectangle(*map(int, (*placed.min(axis=0), *placed.max(axis=0))))
    shape = dlib.full_object_detection(box, [dlib.point(int(x), int(y)) for x, y in placed])
    chip: NDArray[np.uint8] = dlib.get_face_chip(picture, shape, CHIP_SIDE, CHIP_PADDING)
    return chip


# ---- networks ----------------------------------------------------------------------------------------------


@cache
def _detector() -> Any:
    return _dlib().get_frontal_face_detector()


@cache
def _predictor() -> Any:
    return _load(_dlib().shape_predictor, POINTS_FILE)


@cache
def _identity() -> Any:
    return _load(_dlib().face_recognition_model_v1, IDENTITY_FILE)


def _dlib() -> Any:
    why = missing()
    if why:
        raise UserError(why, "dlib", f"Run {INSTALL_DLIB}.")
    return importlib.import_module("dlib")


def _load(network: Any, name: str) -> Any:
    folder = models_folder()
    assert folder is not None
    check_regular(folder / name)
    with boundary(str(folder / name), "not the network that its name says"):
        return network(str(folder / name))
