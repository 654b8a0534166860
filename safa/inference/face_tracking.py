"""Face tracking: which crop box of a photo or of each frame of a video the model sees.

The box comes from the first of these that is there: landmarks beside the file (``<file>.landmarks.npy``), a
face tracker (``trackers``). The centre square is used only for inputs that are said to be cropped already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import tee
from pathlib import Path

import numpy as np

from safa.data.detectors import Face
from safa.data.detectors.person_tracker import FaceChoice, choose_face
from safa.data.detectors.scene_cuts import SceneCuts
from safa.data.landmarks import read_sidecar, sidecar_of, sidecar_there
from safa.data.video import Frame
from safa.errors import ClipError, UserError
from safa.inference.face_crop import (
    CropBox,
    CropBoxes,
    CropTrack,
    centre_crop_box,
    crop_box_of_landmarks,
    smooth_track,
)
from safa.inference.inputs import FrameSource, first_frame
from safa.inference.options import check_place
from safa.inference.trackers import NO_FACE, FaceTracker
from safa.messages import count
from safa.visualize.images import RgbImage

NO_CROP_HINT = "Use crop=False if it is already cropped around the face."
OTHER_FACE = "Leave the choice out for the largest, or choose another one."
LIVE_SHARE = 0.1  # share of the way to the newest detection that a camera's crop box moves each frame


# ---- what tracking takes and gives -------------------------------------------------------------------------


@dataclass(frozen=True)
class FaceSearch:
    """Where faces come from.

    Attributes:
        tracker: finds them in pictures; None if there is nothing that could.
        sidecars: whether landmarks beside a file come first.
    """

    tracker: FaceTracker | None = None
    sidecars: bool = True

    def sidecar(self, path: Path | None, choice: FaceChoice | None) -> Path | None:
        """Return the landmarks beside a file, if they count: they know of one face, so not of a choice."""
        if path is None or not self.sidecars or choice is not None:
            return None
        return sidecar_there(path)

    def not_found(
        self, what: str, name: str, path: Path | None, choice: FaceChoice | None, fix: str = NO_CROP_HINT
    ) -> UserError:
        """Return the error of an input that shows no such face, with what was tried."""
        sidecar = self.sidecar(path, choice)
        tried = []
        if sidecar is not None:
            tried = [f"landmarks beside it ({sidecar.name})"]
        elif self.sidecars and choice is None and path is not None:
            tried = [f"landmarks beside it ({sidecar_of(path).name} is not there)"]
        if sidecar is None and self.tracker is None:
            tried.append("no face detector is here")
            fix = f"`safa doctor` says what a face detector needs. {fix}"
        elif sidecar is None and self.tracker is not None:
            tried.append(f"the face detector {self.tracker.name}")
        return UserError(f"{what}; tried: {', '.join(tried)}", name, fix)


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

    @property
    def first_seen(self) -> int:
        """Number of the first frame with a face; a camera's frames begin with it."""
        return 0 if self.track is None else int(np.argmax(self.track.seen))


# ---- photos ------------------------------------------------------------------------------------------------


def crop_photo(
    pixels: RgbImage, path: Path | None, search: FaceSearch, *, crop: bool, face: FaceChoice | None = None
) -> CroppedPhoto:
    """Find the crop box around a face of a photo.

    Args:
        pixels: (H, W, 3).
        path: the photo's file, beside which landmarks may lie; None if it has none.
        crop: find the face; otherwise the centre square is used.
        face: which one; None is the largest.

    Raises:
        UserError: no face was found, or not so many.
    """
    height, width = pixels.shape[:2]
    check_place("face", face, width, height)
    if not crop:
        return CroppedPhoto(centre_crop_box(width, height))
    crop_boxes = _boxes_of_photo(pixels, path, search, face)
    chosen = _chosen_box(crop_boxes, face)
    if chosen is None:
        name = path.name if path else "the photo"
        fix = OTHER_FACE if crop_boxes else NO_CROP_HINT
        raise search.not_found(_no_face(len(crop_boxes), face), name, path, face, fix)
    return CroppedPhoto(chosen, _several_note(len(crop_boxes), face, path))


def crop_people(
    pixels: RgbImage, path: Path | None, search: FaceSearch, *, crop: bool, face: FaceChoice | None = None
) -> list[CropBox]:
    """Find the crop boxes of all faces in a photo, the largest first; landmarks beside it know of one face.

    Args:
        face: this one alone.

    Raises:
        UserError: as ``crop_photo``.
    """
    if crop and face is None:
        crop_boxes = _boxes_of_photo(pixels, path, search, None)
        if crop_boxes:
            return crop_boxes
    return [crop_photo(pixels, path, search, crop=crop, face=face).crop_box]


def _boxes_of_photo(
    pixels: RgbImage, path: Path | None, search: FaceSearch, face: FaceChoice | None
) -> list[CropBox]:
    if path is not None and search.sidecar(path, face) is not None:
        return [box for box in _from_landmarks(path)[:1] if np.isfinite(box).all()]
    return [] if search.tracker is None else search.tracker.faces(pixels)


def _chosen_box(crop_boxes: list[CropBox], choice: FaceChoice | None) -> CropBox | None:
    faces = [Face(x - side / 2, y - side / 2, x + side / 2, y + side / 2, 1.0) for x, y, side in crop_boxes]
    chosen = choose_face(faces, choice)
    return None if chosen is None else crop_boxes[faces.index(chosen)]


def _no_face(number: int, choice: FaceChoice | None) -> str:
    return f"there is no face {choice}, only {number}" if number else "no face found"


def _several_note(number: int, choice: FaceChoice | None, path: Path | None) -> tuple[str, ...]:
    if number < 2 or choice is not None:
        return ()
    name = path.name if path else "the photo"
    return (f"{name}: {number} faces; the largest is used (face=2 is the next)",)


# ---- videos ------------------------------------------------------------------------------------------------


def track_video(
    frame_source: FrameSource, search: FaceSearch, *, crop: bool, face: FaceChoice | None = None
) -> TrackedVideo:
    """Find the crop boxes around one person's face in a video, steady over time.

    Args:
        face: whose, of those that the first frame with a face shows; None is the largest.

    Raises:
        UserError: there is no frame, or no face was found in any frame.
    """
    if not crop:
        return _centre_of_video(frame_source)
    path, tracker = frame_source.file, search.tracker
    scenes, cuts = SceneCuts(), []

    def look(number: int, frame: Frame) -> None:
        if number == 0:
            check_place("driving_face", face, frame.shape[1], frame.shape[0])
        if scenes.is_cut(frame):
            cuts.append(number)

    watched = frame_source.watched(look)
    known = _along_video(watched) if search.sidecar(path, face) is not None else None
    crop_boxes: CropBoxes = NO_FACE[None]
    notes: tuple[str, ...] = ()
    if known is not None:
        crop_boxes, notes = known
    elif tracker is not None and not frame_source.repeatable:
        return TrackedVideo(partial(_live, watched, search, tracker, face), None)
    elif tracker is not None:
        crop_boxes = np.stack(list(tracker.crop_boxes(watched.frames(), face)) or [NO_FACE])
    try:
        track = smooth_track(crop_boxes, frame_source.fps, cuts)
    except ValueError:
        raise _no_face_in_video(frame_source, search, face) from None
    num_without = int((~track.seen).sum())
    note = (
        f"{frame_source.name}: no face in {num_without} of {count(len(track.seen), 'frame')}; "
        "the crop is interpolated there"
    )
    notes += (note,) if num_without else ()
    return TrackedVideo(partial(_tracked, frame_source, track), track, notes)


def _no_face_in_video(frame_source: FrameSource, search: FaceSearch, face: FaceChoice | None) -> UserError:
    which, fix = "face", NO_CROP_HINT
    if face is not None and not isinstance(face, tuple):
        which, fix = f"face {face}", OTHER_FACE
    return search.not_found(f"no {which} found in any frame", frame_source.name, frame_source.file, face, fix)


def _tracked(frame_source: FrameSource, track: CropTrack) -> Iterator[TrackedFrame]:
    for number, frame in enumerate(frame_source.frames()):
        yield TrackedFrame(frame, track.crop_box(number), track.was_seen(number))


def _live(
    frame_source: FrameSource, search: FaceSearch, face_tracker: FaceTracker, face: FaceChoice | None
) -> Iterator[TrackedFrame]:
    """Track with the past alone, as a camera needs it; frames before the first face are left out."""
    crop_box: CropBox | None = None
    frames, shown = tee(frame_source.frames())
    for frame, detected in zip(shown, face_tracker.crop_boxes(frames, face), strict=True):
        seen = bool(np.isfinite(detected).all())
        if seen:
            crop_box = detected if crop_box is None else crop_box + LIVE_SHARE * (detected - crop_box)
        if crop_box is not None:
            yield TrackedFrame(frame, crop_box, seen)
    if crop_box is None:
        raise _no_face_in_video(frame_source, search, face)


def _centre_of_video(frame_source: FrameSource) -> TrackedVideo:
    first, frames = first_frame(frame_source)
    height, width = first.shape[:2]
    track = CropTrack(centre_crop_box(width, height)[None], np.ones(1, bool))
    unread = [frames]  # a camera is opened only once; anything else starts anew

    def tracked() -> Iterator[TrackedFrame]:
        stream = unread.pop() if unread else frame_source.frames()
        return (
            TrackedFrame(frame, centre_crop_box(frame.shape[1], frame.shape[0]), True) for frame in stream
        )

    return TrackedVideo(tracked, track)


def _from_landmarks(path: Path) -> CropBoxes:
    """Return crop boxes (T, 3) from the landmarks beside a file."""
    try:
        return crop_box_of_landmarks(read_sidecar(path))
    except ClipError as error:
        raise UserError(str(error), str(path), "Fix or delete the landmarks beside it.") from None


def _along_video(frame_source: FrameSource) -> tuple[CropBoxes, tuple[str, ...]] | None:
    """Return the crop box of each frame of a video that has landmarks beside it; None of other sources.

    Landmarks have a row for each frame of the file; which of these are shown is known once they were read. A
    note says so where the landmarks are of fewer or more frames than the video.
    """
    if frame_source.file is None or frame_source.playback is None:
        return None
    crop_boxes = _from_landmarks(frame_source.file)
    num_frames = sum(1 for _ in frame_source.frames())
    rows = np.array(frame_source.playback.rows[:num_frames], np.int64)
    along = np.full((len(rows), 3), np.nan)
    known = rows < len(crop_boxes)  # the landmarks may end before the video
    along[known] = crop_boxes[rows[known]]
    last = int(rows[-1]) + 1 if len(rows) else 0
    whole = frame_source.whole and frame_source.playback.times is not None
    if last > len(crop_boxes) or (whole and last < len(crop_boxes)):
        frames = count(last, "frame") if whole else f"at least {count(last, 'frame')}"
        lost = ", without the damaged ones" if frame_source.playback.lost else ""
        rows_of = f"{frame_source.name}: landmarks of {count(len(crop_boxes), 'frame')}"
        return along, (f"{rows_of}, the video has {frames}{lost}",)
    return along, ()
