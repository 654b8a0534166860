"""Which square of a photo or a video the model gets to see, and a word to the user where that is a guess.

In this order: landmarks beside the file (``<file>.landmarks.npy``), a face detector, the centre square.


XXX The face detector that is here, if any: a detector of ``safa.data.faces``, and squares from its boxes.

A detector is here when its weights lie in the assets folder and the face-alignment package is installed; the
package is found by name, never imported to find out.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from safa.data.detectors import Face, FaceDetector, iou
from safa.data.landmarks import read_sidecar, sidecar_of, source_frames_of
from safa.data.video import Frame, probe
from safa.errors import ClipError, UserError
from safa.inference.face_crop import (
    CropBoxes,
    CropTrack,
    centre_crop_box,
    crop_box_of_landmarks,
    smooth_track,
)
from safa.inference.inputs import FrameSource, first_frame
from safa.visualize.images import RgbImage

NO_FACE = np.full(3, np.nan)
NO_DETECTOR = (
    "took the centre square, as there is no face detector here (`safa doctor` tells how to get one; "
    "--no-crop says that the input is cut already)"
)
LIVE_SHARE = 0.1  # of the way to the newest square, which the square of a camera goes each frame


class FaceTracker(Protocol):
    """Finds the face that a video is about: the largest one, and then the same one again."""

    def crop_boxes(self, frames: Iterable[RgbImage]) -> Iterator[NDArray[np.float64]]:
        """For each frame its square (3,), NaN where there is no face; in order."""
        ...

    def faces(self, frame: RgbImage) -> list[NDArray[np.float64]]:
        """CropBoxes of all faces of one picture, the largest first."""
        ...


@dataclass(frozen=True)
class PhotoCrop:
    """Attributes: square (3,) px; notes, for the user."""

    crop_box: NDArray[np.float64]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class TrackedFrame:
    """A frame (H, W, 3), its square (3,) px, and whether a face was seen in this very frame."""

    frame: Frame
    crop_box: NDArray[np.float64]
    seen: bool


@dataclass(frozen=True)
class TrackedVideo:
    """A video's frames, each with its square.

    Attributes:
        open: call it for the frames from the first one on.
        track: all squares; None for a camera, whose future is not known.
        notes: for the user.
    """

    open: Callable[[], Iterator[TrackedFrame]]
    track: CropTrack | None
    notes: tuple[str, ...] = ()


def crop_of_photo(
    pixels: RgbImage, path: Path | None, face_tracker: FaceTracker | None, *, crop: bool
) -> PhotoCrop:
    """The square around the face of a photo.

    Raises:
        UserError: a face tracker or the landmarks beside the photo know of no face in it.
    """
    height, width = pixels.shape[:2]
    name = path.name if path else "the photo"
    if not crop:
        return PhotoCrop(centre_crop_box(width, height))
    found = _beside(path) if path else None
    if found is None and face_tracker is None:
        return PhotoCrop(centre_crop_box(width, height), _guess_note(name, width, height))
    if found is None:
        assert face_tracker is not None
        found = np.stack(list(face_tracker.crop_boxes([pixels])))
    if not np.isfinite(found[0]).all():
        raise UserError("no face found", name, "Give another photo, or --no-crop if it is cut already.")
    return PhotoCrop(found[0])


def crops_of_people(
    pixels: RgbImage, path: Path | None, face_tracker: FaceTracker | None, *, crop: bool
) -> list[NDArray[np.float64]]:
    """CropBoxes of all faces of a photo, the largest first; landmarks beside a photo know of one.

    Raises:
        UserError: as ``crop_of_photo``.
    """
    if crop and face_tracker is not None and (path is None or not sidecar_of(path).is_file()):
        found = face_tracker.faces(pixels)
        if found:
            return found
    return [crop_of_photo(pixels, path, face_tracker, crop=crop).crop_box]


def track_video(frame_source: FrameSource, face_tracker: FaceTracker | None, *, crop: bool) -> TrackedVideo:
    """The squares around the face of a video, steady over time.

    Raises:
        UserError: no frame, or a face tracker or the landmarks beside the video know of no face in any frame.
    """
    found = _beside(frame_source.file, frame_source.fps) if crop and frame_source.file else None
    if not crop or (found is None and face_tracker is None):
        return _centre_crop_of_video(frame_source, crop)
    if found is None and not frame_source.again:
        assert face_tracker is not None
        return TrackedVideo(partial(_live, frame_source, face_tracker), None)
    if found is None:
        assert face_tracker is not None
        found = np.stack(list(face_tracker.crop_boxes(frame_source.frames())) or [NO_FACE])
    try:
        track = smooth_track(found, frame_source.fps)
    except ValueError:
        fix = "Give another video, or --no-crop if it is cut already."
        raise UserError("no face found in any frame", frame_source.name, fix) from None
    without = int((~track.seen).sum())
    note = f"{frame_source.name}: {without} of {len(track.seen)} frames show no face; the square stays where it was"
    return TrackedVideo(partial(_tracked, frame_source, track), track, (note,) if without else ())


def _beside(path: Path | None, fps: float | None = None) -> CropBoxes | None:
    """CropBoxes from the landmarks beside a file, at ``fps``; None if there are none."""
    if path is None or not sidecar_of(path).is_file():
        return None
    try:
        crop_boxes = crop_box_of_landmarks(read_sidecar(path))
    except ClipError as error:
        raise UserError(str(error), str(path), "Fix or delete the landmarks beside it.") from None
    if fps is None:
        return crop_boxes
    own = probe(path).fps
    if abs(own - fps) < 1e-3:
        return crop_boxes
    shown = source_frames_of(round(len(crop_boxes) * fps / own), own, fps)
    return crop_boxes[np.minimum(shown, len(crop_boxes) - 1)]


def _centre_crop_of_video(frame_source: FrameSource, crop: bool) -> TrackedVideo:
    first, frames = first_frame(frame_source)
    height, width = first.shape[:2]
    crop_box = centre_crop_box(width, height)
    track = CropTrack(crop_box[None], np.ones(1, bool))
    opened = [frames]  # a camera is opened once; anything else starts anew

    def tracked() -> Iterator[TrackedFrame]:
        again = opened.pop() if opened else frame_source.frames()
        return (TrackedFrame(frame, centre_crop_box(frame.shape[1], frame.shape[0]), True) for frame in again)

    return TrackedVideo(tracked, track, _guess_note(frame_source.name, width, height) if crop else ())


def _tracked(frame_source: FrameSource, track: CropTrack) -> Iterator[TrackedFrame]:
    for number, frame in enumerate(frame_source.frames()):
        yield TrackedFrame(frame, track.crop_box(number), track.was_seen(number))


def _live(frame_source: FrameSource, face_tracker: FaceTracker) -> Iterator[TrackedFrame]:
    """Each frame's square from the frames before it alone. Frames before the first face are left out."""
    crop_box: NDArray[np.float64] | None = None
    for frame in frame_source.frames():
        found = next(iter(face_tracker.crop_boxes([frame])))
        seen = bool(np.isfinite(found).all())
        if seen:
            crop_box = found if crop_box is None else crop_box + LIVE_SHARE * (found - crop_box)
        if crop_box is not None:
            yield TrackedFrame(frame, crop_box, seen)


def _guess_note(name: str, width: int, height: int) -> tuple[str, ...]:
    return () if width == height else (f"{name}: {NO_DETECTOR}",)


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
# BlazeFace's boxes against landmarks' squares: medians over four photos and three videos (spread 0.1, 0.02).
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


def load_face_tracker(device: torch.device, folder: Path = ASSETS) -> FaceTracker | None:
    """The face detector that is here; None if package or weights are missing.

    Raises:
        UserError: weights that are not what their name says.
    """
    found = available(folder)
    if not found.package or found.detector is None:
        return None
    from safa.config.preprocess import DetectorConfig
    from safa.data.detectors.face_alignment import (
        LibraryDetector,  # imports face-alignment, which takes seconds
    )

    config = DetectorConfig(name=found.detector, weights=folder, batch=BATCH, device=str(device))
    return DetectorTracker(LibraryDetector(config), DETECTORS[found.detector][1])


class DetectorTracker:
    """Follows the largest face of the first frame that shows one.

    Args:
        side: px, longer side of the frames that the detector is shown.
    """

    def __init__(self, detector: FaceDetector, side: int) -> None:
        self._detector, self._side = detector, side

    def crop_boxes(self, frames: Iterable[RgbImage]) -> Iterator[NDArray[np.float64]]:
        """For each frame its square (3,), NaN where the face is not; in order."""
        iterator, last = iter(frames), None
        while chosen := list(islice(iterator, BATCH)):
            shown = [_shown(frame, self._side) for frame in chosen]
            found = self._detector.detect([picture for picture, _ in shown])
            for faces, (_, scale) in zip(found, shown, strict=True):
                face = _same(faces, last)
                last = face or last
                yield NO_FACE if face is None else crop_box_of_face(face) / scale

    def faces(self, frame: RgbImage) -> list[NDArray[np.float64]]:
        """CropBoxes of all faces of one picture, the largest first."""
        picture, scale = _shown(frame, self._side)
        faces = sorted(self._detector.detect([picture])[0], key=lambda face: -face.area)
        return [crop_box_of_face(face) / scale for face in faces]


def crop_box_of_face(face: Face) -> NDArray[np.float64]:
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


def _shown(frame: RgbImage, side: int) -> tuple[RgbImage, float]:
    """The frame scaled to ``side`` px and padded to a square, and by what it was scaled."""
    height, width = frame.shape[:2]
    scale = side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    crop_box = np.zeros((side, side, 3), np.uint8)
    crop_box[: size[1], : size[0]] = np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BOX))
    return crop_box, scale
