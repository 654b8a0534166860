"""Face tracking: which crop box of a photo or of each frame of a video the model sees.

The box comes from the first of these that is there: landmarks beside the file (``<file>.landmarks.npy``), a
face detector, the centre square. Where it is a guess, a note says so.

A detector is there when its weights lie in the assets folder and the face-alignment package is installed. The
package is looked up by name; it takes seconds to import, so it is imported only when it is used.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from PIL import Image

from safa.batching import batched
from safa.config.preprocess import DetectorConfig
from safa.data.detectors import Face, FaceDetector, iou
from safa.data.detectors.face_alignment import DETECTOR_FILES, LibraryDetector
from safa.data.landmarks import read_sidecar, sidecar_of
from safa.data.video import Frame
from safa.errors import ClipError, UserError
from safa.files import Location, is_file, join
from safa.inference.face_crop import (
    CropBox,
    CropBoxes,
    CropTrack,
    centre_crop_box,
    crop_box_of_landmarks,
    smooth_track,
)
from safa.inference.inputs import FrameSource, first_frame
from safa.messages import count
from safa.visualize.images import RgbImage

NO_FACE: CropBox = np.full(3, np.nan)
NO_DETECTOR = (
    "no face detector installed: using the centre square (`safa doctor` says how to install one; "
    "use crop=False if the input is already cropped)"
)
NO_CROP_HINT = "Use crop=False if it is already cropped around the face."
LIVE_SHARE = 0.1  # share of the way to the newest detection that a camera's crop box moves each frame

ASSETS = Path("assets")  # where `safa assets check` looks, too
Detector = Literal["sfd", "blazeface_back", "blazeface"]
DETECTORS: dict[Detector, int] = {
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


# ---- what tracking gives -----------------------------------------------------------------------------------


class FaceTracker(Protocol):
    """Finds one person's face in frame after frame: the largest face at first, then the same one again."""

    def crop_boxes(self, frames: Iterable[RgbImage]) -> Iterator[CropBox]:
        """Yield the crop box of each frame in order; NaN where there is no face."""
        ...

    def faces(self, frame: RgbImage) -> list[CropBox]:
        """Return the crop boxes of all faces in one image, the largest first."""
        ...


@dataclass(frozen=True)
class CroppedPhoto:
    """Where the face of a photo is.

    Attributes:
        crop_box: (3,) px.
        notes: what was guessed, for the user.
    """

    crop_box: CropBox
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class TrackedFrame:
    """A frame with its crop box.

    Attributes:
        frame: (H, W, 3).
        crop_box: (3,) px.
        seen: whether a face was detected in this very frame.
    """

    frame: Frame
    crop_box: CropBox
    seen: bool


@dataclass(frozen=True)
class TrackedVideo:
    """The frames of a video, each with its crop box.

    Attributes:
        open: yields the frames from the first one on.
        track: the crop boxes; None for a camera, whose future is unknown.
        notes: what was guessed, for the user.
    """

    open: Callable[[], Iterator[TrackedFrame]]
    track: CropTrack | None
    notes: tuple[str, ...] = ()


# ---- photos ------------------------------------------------------------------------------------------------


def crop_photo(
    pixels: RgbImage, path: Path | None, face_tracker: FaceTracker | None, *, crop: bool
) -> CroppedPhoto:
    """Find the crop box around the face of a photo.

    Args:
        pixels: (H, W, 3).
        path: the photo's file, beside which landmarks may lie; None if it has none.
        crop: find the face; otherwise the centre square is used.

    Raises:
        UserError: no face was found.
    """
    height, width = pixels.shape[:2]
    name = path.name if path else "the photo"
    if not crop:
        return CroppedPhoto(centre_crop_box(width, height))
    crop_boxes = _from_landmarks(path) if path else None
    if crop_boxes is None and face_tracker is None:
        return CroppedPhoto(centre_crop_box(width, height), _guess_note(name, width, height))
    if crop_boxes is None:
        assert face_tracker is not None
        crop_boxes = np.stack(list(face_tracker.crop_boxes([pixels])))
    if not np.isfinite(crop_boxes[0]).all():
        raise UserError("no face found", name, f"Give another photo. {NO_CROP_HINT}")
    return CroppedPhoto(crop_boxes[0])


def crop_people(
    pixels: RgbImage, path: Path | None, face_tracker: FaceTracker | None, *, crop: bool
) -> list[CropBox]:
    """Find the crop boxes of all faces in a photo, the largest first; landmarks beside it know of one face.

    Raises:
        UserError: as ``crop_photo``.
    """
    if crop and face_tracker is not None and (path is None or not is_file(sidecar_of(path))):
        crop_boxes = face_tracker.faces(pixels)
        if crop_boxes:
            return crop_boxes
    return [crop_photo(pixels, path, face_tracker, crop=crop).crop_box]


# ---- videos ------------------------------------------------------------------------------------------------


def track_video(frame_source: FrameSource, face_tracker: FaceTracker | None, *, crop: bool) -> TrackedVideo:
    """Find the crop boxes around the face in a video, steady over time.

    Raises:
        UserError: there is no frame, or no face was found in any frame.
    """
    crop_boxes = _along_video(frame_source) if crop else None
    if not crop or (crop_boxes is None and face_tracker is None):
        return _centre_of_video(frame_source, crop)
    if crop_boxes is None and not frame_source.repeatable:
        assert face_tracker is not None
        return TrackedVideo(partial(_live, frame_source, face_tracker), None)
    if crop_boxes is None:
        assert face_tracker is not None
        crop_boxes = np.stack(list(face_tracker.crop_boxes(frame_source.frames())) or [NO_FACE])
    try:
        track = smooth_track(crop_boxes, frame_source.fps)
    except ValueError:
        fix = f"Give another video. {NO_CROP_HINT}"
        raise UserError("no face found in any frame", frame_source.name, fix) from None
    num_without = int((~track.seen).sum())
    note = (
        f"{frame_source.name}: no face in {num_without} of {count(len(track.seen), 'frame')}; "
        "the crop is interpolated there"
    )
    return TrackedVideo(partial(_tracked, frame_source, track), track, (note,) if num_without else ())


def _tracked(frame_source: FrameSource, track: CropTrack) -> Iterator[TrackedFrame]:
    for number, frame in enumerate(frame_source.frames()):
        yield TrackedFrame(frame, track.crop_box(number), track.was_seen(number))


def _live(frame_source: FrameSource, face_tracker: FaceTracker) -> Iterator[TrackedFrame]:
    """Track with the past alone, as a camera needs it; frames before the first face are left out."""
    crop_box: CropBox | None = None
    for frame in frame_source.frames():
        detected = next(iter(face_tracker.crop_boxes([frame])))
        seen = bool(np.isfinite(detected).all())
        if seen:
            crop_box = detected if crop_box is None else crop_box + LIVE_SHARE * (detected - crop_box)
        if crop_box is not None:
            yield TrackedFrame(frame, crop_box, seen)


def _centre_of_video(frame_source: FrameSource, crop: bool) -> TrackedVideo:
    first, frames = first_frame(frame_source)
    height, width = first.shape[:2]
    track = CropTrack(centre_crop_box(width, height)[None], np.ones(1, bool))
    unread = [frames]  # a camera is opened only once; anything else starts anew

    def tracked() -> Iterator[TrackedFrame]:
        stream = unread.pop() if unread else frame_source.frames()
        return (
            TrackedFrame(frame, centre_crop_box(frame.shape[1], frame.shape[0]), True) for frame in stream
        )

    return TrackedVideo(tracked, track, _guess_note(frame_source.name, width, height) if crop else ())


def _from_landmarks(path: Path) -> CropBoxes | None:
    """Return crop boxes (T, 3) from the landmarks beside a file; None if there are none."""
    if not is_file(sidecar_of(path)):
        return None
    try:
        return crop_box_of_landmarks(read_sidecar(path))
    except ClipError as error:
        raise UserError(str(error), str(path), "Fix or delete the landmarks beside it.") from None


def _along_video(frame_source: FrameSource) -> CropBoxes | None:
    """Return the crop box of each frame of a video that has landmarks beside it, else None.

    Landmarks have a row for each frame of the file; which of these are shown is known once they were read.
    """
    crop_boxes = _from_landmarks(frame_source.file) if frame_source.file else None
    if crop_boxes is None or frame_source.playback is None:
        return None
    num_frames = sum(1 for _ in frame_source.frames())
    rows = np.array(frame_source.playback.rows[:num_frames], np.int64)
    along = np.full((len(rows), 3), np.nan)
    known = rows < len(crop_boxes)  # the landmarks may end before the video
    along[known] = crop_boxes[rows[known]]
    return along


def _guess_note(name: str, width: int, height: int) -> tuple[str, ...]:
    return () if width == height else (f"{name}: {NO_DETECTOR}",)


# ---- tracking with a detector ------------------------------------------------------------------------------


@dataclass(frozen=True)
class DetectorStatus:
    """What could detect faces on this machine.

    Attributes:
        package: whether face-alignment is installed.
        detector: the best detector whose weights are there; None if there are none.
    """

    package: bool
    detector: Detector | None


def detector_status(folder: Location = ASSETS) -> DetectorStatus:
    """Look for the package, and for weights in ``folder``; neither is loaded."""
    complete = (
        name for name in DETECTORS if all(is_file(join(folder, file)) for file in DETECTOR_FILES[name])
    )
    return DetectorStatus(importlib.util.find_spec("face_alignment") is not None, next(complete, None))


def load_face_tracker(device: torch.device, folder: Location = ASSETS) -> FaceTracker | None:
    """Load the best detector whose weights lie in ``folder``; None if package or weights are missing.

    Raises:
        UserError: a file does not hold the weights that its name promises.
    """
    status = detector_status(folder)
    if not status.package or status.detector is None:
        return None
    config = DetectorConfig(name=status.detector, weights=folder, batch=DETECTOR_BATCH, device=str(device))
    return DetectorTracker(LibraryDetector(config), DETECTORS[status.detector])


class DetectorTracker:
    """Follows the largest face of the first frame that shows one.

    Args:
        side: px, longer side of the frames that the detector is shown.
    """

    def __init__(self, detector: FaceDetector, side: int) -> None:
        self._detector, self._side = detector, side

    def crop_boxes(self, frames: Iterable[RgbImage]) -> Iterator[CropBox]:
        """Yield the crop box (3,) px of each frame in order; NaN where the face is not detected."""
        last: Face | None = None
        for chunk in batched(frames, DETECTOR_BATCH):
            padded = [_letterbox(frame, self._side) for frame in chunk]
            detections = self._detector.detect([image for image, _ in padded])
            for faces, (_, scale) in zip(detections, padded, strict=True):
                face = _same_face(faces, last)
                last = face or last
                yield NO_FACE if face is None else crop_box_of_face(face) / scale

    def faces(self, frame: RgbImage) -> list[CropBox]:
        """Return the crop boxes of all faces in one image, the largest first."""
        image, scale = _letterbox(frame, self._side)
        faces = sorted(self._detector.detect([image])[0], key=lambda face: -face.area)
        return [crop_box_of_face(face) / scale for face in faces]


def crop_box_of_face(face: Face) -> CropBox:
    """Return the crop box (3,) that goes with a detected box."""
    side = BOX_MARGIN * max(face.right - face.left, face.bottom - face.top)
    x, y = (face.left + face.right) / 2, (face.top + face.bottom) / 2
    return np.array([x, y - BOX_RISE * side, side], np.float64)


def _same_face(faces: Iterable[Face], last: Face | None) -> Face | None:
    """Return the face that was followed so far; the largest one at the start, or when that one is lost."""
    ordered = sorted(faces, key=lambda face: -face.area)
    if last is None or not ordered:
        return ordered[0] if ordered else None
    nearest = max(ordered, key=lambda face: iou(face, last))
    return nearest if iou(nearest, last) >= SAME_FACE else ordered[0]


def _letterbox(frame: RgbImage, side: int) -> tuple[RgbImage, float]:
    """Scale a frame to ``side`` px and pad it to (side, side, 3); also return the scale."""
    height, width = frame.shape[:2]
    scale = side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    padded = np.zeros((side, side, 3), np.uint8)
    padded[: size[1], : size[0]] = np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BOX))
    return padded, scale
