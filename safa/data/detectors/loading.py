"""What the settings of preprocessing name: a detector, and what finds landmarks in stored frames."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from safa.config.preprocess import DetectorConfig, DlibLandmarksConfig, FaceAlignmentLandmarks, VideosSource
from safa.data.detectors import (
    Face,
    FaceDetector,
    FaceEmbedder,
    LandmarkDetector,
    NearDetector,
    chosen,
    dlib_faces,
    iou,
)
from safa.data.detectors.dlib_faces import CROP_SIDES, DlibDetector, DlibIdentity, DlibLandmarks
from safa.data.landmarks import Landmarks, no_landmarks
from safa.errors import UserError

SAME_PLACE = 0.2  # least overlap (IoU) with a face of the frame before that makes it the same one
STORED_THRESHOLD = 0.4  # of stored frames, which are cropped to a face: turned heads score low
STORED_SIDES = (192, *CROP_SIDES)  # px, at which they are searched
VIDEO_SIDES = (480, 960)  # px, at which whole frames of raw videos are searched


def check(config: DetectorConfig | FaceAlignmentLandmarks | DlibLandmarksConfig) -> None:
    """Load what the settings name once, on the CPU, to report here what would fail on every worker.

    Raises:
        UserError: a package or a file is missing, or a file is not what its name says.
    """
    if isinstance(config, DlibLandmarksConfig) or getattr(config, "name", "") == "dlib":
        dlib_faces.check()
        return
    from safa.data.detectors import face_alignment  # torch: only where it is needed

    face_alignment.check(config)


def load_detector(config: DetectorConfig) -> FaceDetector:
    """Load a detector.

    Raises:
        UserError: as ``check``.
    """
    if config.name == "dlib":
        return DlibDetector(VIDEO_SIDES, config.threshold)
    from safa.data.detectors.face_alignment import LibraryDetector

    return LibraryDetector(config)


def check_source(source: VideosSource) -> None:
    """``check`` for all that raw videos need.

    Raises:
        UserError: as ``check``.
    """
    check(source.detector)
    if source.identity is not None:
        try:
            dlib_faces.check()
        except UserError as error:
            fix = "Set source.identity=null: then each video counts as a person of its own."
            raise UserError(error.what, "source.identity: dlib", f"{error.fix} {fix}".strip()) from None


def load_embedder(source: VideosSource) -> FaceEmbedder | None:
    """Load what says who is seen; None if nobody is to know.

    Raises:
        UserError: as ``check``.
    """
    return DlibEmbedder() if source.identity is not None else None


def load_landmark_detector(config: FaceAlignmentLandmarks | DlibLandmarksConfig) -> LandmarkDetector:
    """Load what finds landmarks in stored frames.

    Raises:
        UserError: as ``check``.
    """
    if isinstance(config, DlibLandmarksConfig):
        return DlibFrames(config)
    from safa.data.detectors.face_alignment import LibraryLandmarks

    return LibraryLandmarks(config)


class DlibEmbedder:
    """A ``FaceEmbedder``: dlib's landmarks of each face, then its identity network.

    Raises:
        UserError: dlib is not here.
    """

    def __init__(self) -> None:
        self._landmarks, self._identity = DlibLandmarks(), DlibIdentity()

    def __call__(self, frame: NDArray[np.uint8], faces: Sequence[Face]) -> NDArray[np.float32]:
        """Embed the faces of a frame (H, W, 3): (N, 128)."""
        frames = [frame] * len(faces)
        return self._identity.embeddings(frames, self._landmarks.landmarks(frames, faces))


def of_video(detector: FaceDetector, every: int) -> FaceDetector:
    """Return the detector for the frames of one video in order: with tracking, if it can look near a face."""
    return DetectorWithTracking(detector, every) if isinstance(detector, NearDetector) else detector


class DetectorWithTracking:
    """A ``FaceDetector`` that searches each ``every``-th frame of a video, and others near the faces before.

    Where a face is lost, or there was none, the whole frame is searched, too.
    """

    def __init__(self, detector: NearDetector, every: int) -> None:
        self._detector, self._every = detector, every
        self._faces: tuple[Face, ...] = ()
        self._since = 0  # frames since a whole one was searched

    def detect(self, frames: Sequence[NDArray[np.uint8]]) -> list[tuple[Face, ...]]:
        """Detect all faces of each of the next frames (H, W, 3)."""
        return [self._next(frame) for frame in frames]

    def _next(self, frame: NDArray[np.uint8]) -> tuple[Face, ...]:
        self._since += 1
        if self._since < self._every and self._faces:
            found = [self._nearest(frame, face) for face in self._faces]
            kept = tuple(face for face in found if face is not None)
            if len(kept) == len(self._faces):
                self._faces = kept
                return kept
        (whole,) = self._detector.detect([frame])
        lost = [face for face in self._faces if all(iou(face, other) < SAME_PLACE for other in whole)]
        again = [self._nearest(frame, face) for face in lost]  # which is surer than a search of all the frame
        self._faces, self._since = (*whole, *(face for face in again if face is not None)), 0
        return self._faces

    def _nearest(self, frame: NDArray[np.uint8], face: Face) -> Face | None:
        nearest = max(self._detector.near(frame, face), key=lambda each: iou(each, face), default=None)
        return nearest if nearest is not None and iou(nearest, face) >= SAME_PLACE else None


class DlibFrames:
    """dlib's landmarks in stored frames, each by itself: numbers depend on no other frame.

    Raises:
        UserError: dlib is not here.
    """

    def __init__(self, config: DlibLandmarksConfig) -> None:
        self._detector = DlibDetector(STORED_SIDES, STORED_THRESHOLD)
        self._landmarks, self._choose = DlibLandmarks(), config.choose

    def __call__(self, frames: Sequence[NDArray[np.uint8]]) -> Landmarks:
        """Find the landmarks of the chosen face of each frame (S, S, 3); NaN where there is none."""
        found = no_landmarks(len(frames))
        height, width = frames[0].shape[:2]
        for number, faces in enumerate(self._detector.detect(frames)):
            face = chosen(faces, self._choose, (width / 2, height / 2))
            if face is not None:
                found.points[number] = self._landmarks.landmarks([frames[number]], [face])[0]
                found.scores[number] = face.score
        return found
