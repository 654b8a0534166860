"""Scorers with a name: dlib's landmarks and embeddings, and face-alignment's landmarks, of batches of images.

Both look for a face as they do in a photo. Small images are enlarged (bilinearly): dlib searches at a side of
256 px, then 512, finds landmarks where the face has 200 px, and embeds 150 px; FAN gets at least 256 px.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from safa.asset_folders import asset_folders, find_asset
from safa.config.preprocess import DetectorConfig, FaceAlignmentLandmarks
from safa.data.detectors.dlib_faces import CROP_SIDES, DlibDetector, DlibIdentity, DlibLandmarks
from safa.data.detectors.face_alignment import LANDMARK_FILE, LibraryLandmarks
from safa.data.detectors.person_tracker import NO_POINTS, choose_face
from safa.errors import UserError
from safa.files import split
from safa.inference.trackers import detector_status
from safa.visualize.images import RgbImage, from_tensor

# Images whose landmarks and embeddings are remembered: identity needs landmarks, too, and a driving frame
# comes again in each mode. 1 KB each.
KEPT = 8192
FAN_SIDE = 256  # px


class DlibFaces:
    """dlib on images (B, 3, S, S) in [0, 1]; two scorers that share what they find.

    Raises:
        UserError: dlib is not here.
    """

    def __init__(self) -> None:
        self._detector, self._points = DlibDetector(CROP_SIDES), DlibLandmarks()
        self._identity = DlibIdentity()
        self._landmarks_of = _Remembered(self._find)
        self._embedding_of = _Remembered(self._embed)

    def landmarks(self, image: Tensor) -> Tensor:
        """Find the landmarks (B, 68, 2) px of the largest face of each image; NaN where there is none."""
        return _rows(self._landmarks_of, image)

    def identity(self, image: Tensor) -> Tensor:
        """Embed the largest face of each image: (B, 128), NaN where there is none."""
        return _rows(self._embedding_of, image)

    def _find(self, picture: RgbImage) -> NDArray[np.float32]:
        face = choose_face(self._detector.detect([picture])[0], None)
        return NO_POINTS if face is None else self._points.landmarks([picture], [face])[0]

    def _embed(self, picture: RgbImage) -> NDArray[np.float32]:
        points = self._landmarks_of(picture)
        embedding: NDArray[np.float32] = self._identity.embeddings([picture], points[None])[0]
        return embedding


class _Remembered:
    """What a function gives of pictures (S, S, 3), worked out once for each of the last ``KEPT``."""

    def __init__(self, function: Callable[[RgbImage], NDArray[np.float32]]) -> None:
        self._function = function
        self._known: OrderedDict[bytes, NDArray[np.float32]] = OrderedDict()  # SHA-256 of the pixels

    def __call__(self, picture: RgbImage) -> NDArray[np.float32]:
        key = hashlib.sha256(picture.tobytes()).digest()
        if key in self._known:
            self._known.move_to_end(key)
        else:
            self._known[key] = self._function(picture)
            if len(self._known) > KEPT:
                self._known.popitem(last=False)
        return self._known[key]


def _rows(function: Callable[[RgbImage], NDArray[np.float32]], image: Tensor) -> Tensor:
    rows = np.stack([function(picture) for picture in _pictures(image)])
    return torch.from_numpy(rows).to(image.device)


class FanLandmarks:
    """face-alignment's detector and FAN on images (B, 3, S, S) in [0, 1].

    Raises:
        UserError: the package or a weight file is missing.
    """

    def __init__(self, device: str) -> None:
        folders = asset_folders()
        status, points = detector_status(folders), find_asset(LANDMARK_FILE, folders)
        if status.fan or status.detector is None or status.folder is None or points is None:
            lacking = status.fan or f"no {LANDMARK_FILE} in a folder of assets"
            fix = "`safa assets check` says where they are looked for."
            raise UserError(lacking, "scorers.landmarks: fan", fix)
        detector = DetectorConfig(name=status.detector, weights=status.folder, device=device)
        self._networks = LibraryLandmarks(
            FaceAlignmentLandmarks(
                kind="face_alignment", detector=detector, weights=split(points)[0], choose="largest"
            )
        )

    def __call__(self, image: Tensor) -> Tensor:
        """Find the landmarks (B, 68, 2) px of the largest face of each image; NaN where there is none."""
        size = image.shape[-1]
        side = max(size, FAN_SIDE)
        large = F.interpolate(image, size=(side, side), mode="bilinear", antialias=False)
        points = self._networks(_pictures(large)).points * (size / side)
        return torch.from_numpy(points).to(image.device)


def _pictures(image: Tensor) -> Sequence[RgbImage]:
    return [from_tensor(each) for each in image]
