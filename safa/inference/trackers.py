"""Face trackers: the crop box of one person in frame after frame, by dlib or by a detector of face-alignment.

face-alignment is there when its package is installed and the weights of one of its detectors lie in a folder
of assets. Packages are looked up by name; they take seconds to import, so they are imported only when used.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from safa.asset_folders import find_asset
from safa.batching import batched
from safa.config.preprocess import DetectorConfig
from safa.data.detectors import Face, FaceDetector, all_faces, iou
from safa.data.detectors.dlib_faces import (
    CROP_SIDES,
    PHOTO_SIDES,
    DlibDetector,
    DlibIdentity,
    DlibLandmarks,
)
from safa.data.detectors.dlib_faces import missing as missing_of_dlib
from safa.data.detectors.face_alignment import DETECTOR_FILES, LibraryDetector
from safa.data.detectors.person_tracker import NO_POINTS, FaceChoice, PersonTracker, choose_face
from safa.errors import UserError
from safa.files import Location, split
from safa.inference.face_crop import CropBox, crop_box_of_landmarks
from safa.messages import INSTALL, INSTALL_FACES
from safa.visualize.images import RgbImage

NO_FACE: CropBox = np.full(3, np.nan)
Backend = Literal["auto", "dlib", "fan", "none"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)

LibraryDetectorName = Literal["sfd", "blazeface_back", "blazeface"]
DETECTORS: dict[LibraryDetectorName, int] = {
    "sfd": 640,
    "blazeface_back": 256,
    "blazeface": 128,
}  # best first; input, px
DETECTOR_BATCH = 8  # frames at once
SAME_FACE = 0.1  # least overlap (IoU) with the last frame's face that makes it the same one
# From BlazeFace's boxes to the landmarks' crop boxes: medians over four photos and three videos, spreads 0.1
# and 0.02.
BOX_MARGIN = 1.7  # side of the crop box over the longer side of the detected box
BOX_RISE = 0.08  # how far the crop box's centre lies above the detected box's, in sides


class FaceTracker(Protocol):
    """Finds one person's face in frame after frame."""

    @property
    def name(self) -> str:
        """What finds the faces, for messages."""
        ...

    def crop_boxes(self, frames: Iterable[RgbImage], choice: FaceChoice | None = None) -> Iterator[CropBox]:
        """Yield the crop box (3,) px of each frame in order; NaN where the person is not seen.

        Args:
            choice: who is followed, of those that the first frame with a face shows; None is the largest.
        """
        ...

    def faces(self, frame: RgbImage) -> list[CropBox]:
        """Return the crop boxes of all faces in one image, the largest first."""
        ...

    def landmarks(self, faces: Sequence[RgbImage]) -> NDArray[np.float32] | None:
        """Estimate the landmarks (N, 68, 2) px of crops (S, S, 3), NaN without a face; None if it cannot."""
        ...


# ---- which one ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DetectorStatus:
    """What could detect faces on this machine.

    Attributes:
        dlib: what dlib lacks; empty if nothing.
        package: whether face-alignment is installed.
        detector: its best detector whose weights are there; None if there are none.
        folder: where those weights are.
    """

    dlib: str
    package: bool
    detector: LibraryDetectorName | None
    folder: Location | None

    @property
    def fan(self) -> str:
        """What face-alignment lacks; empty if nothing."""
        choices = " or ".join(" and ".join(DETECTOR_FILES[name]) for name in DETECTORS)
        lacking = [] if self.package else ["the package face-alignment is not installed"]
        lacking += [] if self.detector else [f"no {choices} in a folder of assets"]
        return "; ".join(lacking)

    @property
    def chosen(self) -> Backend:
        """What ``auto`` stands for."""
        if not self.fan:
            return "fan"
        return "none" if self.dlib else "dlib"


def detector_status(folders: Sequence[Location]) -> DetectorStatus:
    """Look for the packages, and for weights in ``folders``; no network is loaded."""
    package = importlib.util.find_spec("face_alignment") is not None
    for name in DETECTORS:
        first, *others = DETECTOR_FILES[name]
        for folder in folders:
            path = find_asset(first, [folder])
            if path is not None and all(find_asset(other, [folder]) for other in others):
                return DetectorStatus(missing_of_dlib(), package, name, split(path)[0])
    return DetectorStatus(missing_of_dlib(), package, None, None)


def load_face_tracker(
    device: torch.device, folders: Sequence[Location], backend: Backend = "auto"
) -> FaceTracker | None:
    """Load what finds faces.

    Args:
        folders: where weights of face-alignment may lie.
        backend: ``auto`` is face-alignment if it is complete, else dlib.

    Returns:
        None for ``none``, and for ``auto`` where neither is here.

    Raises:
        UserError: the backend that is asked for is not here, or a file does not hold what its name promises.
    """
    status = detector_status(folders)
    wanted = status.chosen if backend == "auto" else backend
    if wanted == "dlib":
        if status.dlib:
            raise UserError(status.dlib, "detector dlib", f"Run `{INSTALL}`.")
        return DlibTracker()
    if wanted == "fan":
        if status.detector is None or status.folder is None or status.fan:
            fix = f"Run `safa assets download {DETECTOR_FILES['sfd'][0]}`."
            raise UserError(status.fan, "detector fan", fix if status.package else f"Run {INSTALL_FACES}.")
        config = DetectorConfig(
            name=status.detector, weights=status.folder, batch=DETECTOR_BATCH, device=str(device)
        )
        return DetectorTracker(LibraryDetector(config), DETECTORS[status.detector], status.detector)
    return None


# ---- dlib --------------------------------------------------------------------------------------------------


class DlibTracker:
    """Follows one person by dlib's detector, landmarks and identity network.

    They are loaded when the first face is looked for, which takes a second: pictures with landmarks beside
    them, or without a crop, need none. Every method raises ``UserError`` where dlib is not here, or damaged.
    """

    name = "dlib"

    @cached_property
    def _detector(self) -> DlibDetector:
        return DlibDetector()

    @cached_property
    def _of_photos(self) -> DlibDetector:
        return DlibDetector(PHOTO_SIDES)

    @cached_property
    def _of_crops(self) -> DlibDetector:
        return DlibDetector(CROP_SIDES)

    @cached_property
    def _landmarks(self) -> DlibLandmarks:
        return DlibLandmarks()

    @cached_property
    def _identity(self) -> DlibIdentity:
        return DlibIdentity()

    def crop_boxes(self, frames: Iterable[RgbImage], choice: FaceChoice | None = None) -> Iterator[CropBox]:
        """Yield the crop box (3,) px of each frame in order; NaN where the person is not seen."""
        person = PersonTracker(self._detector, self._landmarks, self._identity, choice)
        for seen in person.follow(frames):
            yield NO_FACE if seen is None else crop_box_of_landmarks(seen.points)

    def faces(self, frame: RgbImage) -> list[CropBox]:
        """Return the crop boxes of all faces in one image, the largest first."""
        faces = sorted(all_faces(self._of_photos, frame), key=lambda face: -face.area)
        points = self._landmarks.landmarks([frame] * len(faces), faces)
        return list(crop_box_of_landmarks(points))

    def landmarks(self, faces: Sequence[RgbImage]) -> NDArray[np.float32]:
        """Estimate the landmarks (N, 68, 2) px of crops (S, S, 3), NaN without a face."""
        found = [choose_face(seen, None) for seen in self._of_crops.detect(faces)]
        return np.stack(
            [
                NO_POINTS if face is None else self._landmarks.landmarks([image], [face])[0]
                for image, face in zip(faces, found, strict=True)
            ]
        )


# ---- a detector of face-alignment --------------------------------------------------------------------------


class DetectorTracker:
    """Follows a face by the overlap of its boxes from frame to frame.

    Args:
        side: px, longer side of the frames that the detector is shown.
        name: of the detector.
    """

    def __init__(self, detector: FaceDetector, side: int, name: str = "detector") -> None:
        self._detector, self._side, self._name = detector, side, name

    @property
    def name(self) -> str:
        """What finds the faces, for messages."""
        return self._name

    def crop_boxes(self, frames: Iterable[RgbImage], choice: FaceChoice | None = None) -> Iterator[CropBox]:
        """Yield the crop box (3,) px of each frame in order; NaN where the face is not detected."""
        last: Face | None = None
        for chunk in batched(frames, DETECTOR_BATCH):
            padded = [_letterbox(frame, self._side) for frame in chunk]
            detections = self._detector.detect([image for image, _ in padded])
            for faces, (_, scale) in zip(detections, padded, strict=True):
                found = [face.scaled(1 / scale, 1 / scale) for face in faces]
                face = _same_face(found, last, choice)
                last = face or last
                yield NO_FACE if face is None else crop_box_of_face(face)

    def faces(self, frame: RgbImage) -> list[CropBox]:
        """Return the crop boxes of all faces in one image, the largest first."""
        image, scale = _letterbox(frame, self._side)
        faces = sorted(self._detector.detect([image])[0], key=lambda face: -face.area)
        return [crop_box_of_face(face) / scale for face in faces]

    def landmarks(self, faces: Sequence[RgbImage]) -> None:
        """Return nothing: only boxes are known."""
        return


def crop_box_of_face(face: Face) -> CropBox:
    """Return the crop box (3,) that goes with a detected box."""
    side = BOX_MARGIN * max(face.right - face.left, face.bottom - face.top)
    x, y = (face.left + face.right) / 2, (face.top + face.bottom) / 2
    return np.array([x, y - BOX_RISE * side, side], np.float64)


def _same_face(faces: Sequence[Face], last: Face | None, choice: FaceChoice | None) -> Face | None:
    """Return the face that was followed so far; at the start the chosen one.

    When it is lost, the largest one follows, unless somebody was chosen.
    """
    if last is None:
        return choose_face(faces, choice)
    nearest = max(faces, key=lambda face: iou(face, last), default=None)
    if nearest is not None and iou(nearest, last) >= SAME_FACE:
        return nearest
    return choose_face(faces, None) if choice is None else None


def _letterbox(frame: RgbImage, side: int) -> tuple[RgbImage, float]:
    """Scale a frame to ``side`` px and pad it to (side, side, 3); also return the scale."""
    height, width = frame.shape[:2]
    scale = side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    padded = np.zeros((side, side, 3), np.uint8)
    padded[: size[1], : size[0]] = np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BOX))
    return padded, scale
