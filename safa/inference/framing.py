"""Which square of a photo or a film the model gets to see, and a word to the user where that is a guess.

In this order: landmarks beside the file (``<file>.landmarks.npy``), a face finder, the middle square.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from safa.data.landmarks import read_sidecar, shown_frames, sidecar_of
from safa.data.schema import Refused
from safa.data.video import Frame, probe
from safa.errors import UserError
from safa.inference.facebox import FaceTrack, Squares, middle_square, square_of_landmarks, steady_track
from safa.inference.footage import Footage, first_frame
from safa.pictures.canvas import Picture

NO_FACE = np.full(3, np.nan)
NO_FINDER = (
    "took the middle square, as there is no face finder here (`safa doctor` tells how to get one; "
    "--no-crop says that the input is cut already)"
)
LIVE_SHARE = 0.1  # of the way to the newest square, which the square of a camera goes each frame


class FaceFinder(Protocol):
    """Finds the face that a film is about: the largest one, and then the same one again."""

    def squares(self, frames: Iterable[Picture]) -> Iterator[NDArray[np.float64]]:
        """For each frame its square (3,), NaN where there is no face; in order."""
        ...

    def faces(self, frame: Picture) -> list[NDArray[np.float64]]:
        """Squares of all faces of one picture, the largest first."""
        ...


@dataclass(frozen=True)
class FramedPhoto:
    """Attributes: square (3,) px; notes, for the user."""

    square: NDArray[np.float64]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class FramedFrame:
    """A frame (H, W, 3), its square (3,) px, and whether a face was seen in this very frame."""

    frame: Frame
    square: NDArray[np.float64]
    seen: bool


@dataclass(frozen=True)
class FramedFilm:
    """A film's frames, each with its square.

    Attributes:
        open: call it for the frames from the first one on.
        track: all squares; None for a camera, whose future is not known.
        notes: for the user.
    """

    open: Callable[[], Iterator[FramedFrame]]
    track: FaceTrack | None
    notes: tuple[str, ...] = ()


def frame_photo(pixels: Picture, path: Path | None, finder: FaceFinder | None, *, crop: bool) -> FramedPhoto:
    """The square around the face of a photo.

    Raises:
        UserError: a finder or the landmarks beside the photo know of no face in it.
    """
    height, width = pixels.shape[:2]
    name = path.name if path else "the photo"
    if not crop:
        return FramedPhoto(middle_square(width, height))
    found = _beside(path) if path else None
    if found is None and finder is None:
        return FramedPhoto(middle_square(width, height), _guess_note(name, width, height))
    if found is None:
        assert finder is not None
        found = np.stack(list(finder.squares([pixels])))
    if not np.isfinite(found[0]).all():
        raise UserError("no face found", name, "Give another photo, or --no-crop if it is cut already.")
    return FramedPhoto(found[0])


def frame_people(
    pixels: Picture, path: Path | None, finder: FaceFinder | None, *, crop: bool
) -> list[NDArray[np.float64]]:
    """Squares of all faces of a photo, the largest first; landmarks beside a photo know of one.

    Raises:
        UserError: as ``frame_photo``.
    """
    if crop and finder is not None and (path is None or not sidecar_of(path).is_file()):
        found = finder.faces(pixels)
        if found:
            return found
    return [frame_photo(pixels, path, finder, crop=crop).square]


def frame_film(footage: Footage, finder: FaceFinder | None, *, crop: bool) -> FramedFilm:
    """The squares around the face of a film, steady over time.

    Raises:
        UserError: no frame, or a finder or the landmarks beside the film know of no face in any frame.
    """
    found = _beside(footage.file, footage.fps) if crop and footage.file else None
    if not crop or (found is None and finder is None):
        return _in_the_middle(footage, crop)
    if found is None and not footage.again:
        assert finder is not None
        return FramedFilm(partial(_live, footage, finder), None)
    if found is None:
        assert finder is not None
        found = np.stack(list(finder.squares(footage.frames())) or [NO_FACE])
    try:
        track = steady_track(found, footage.fps)
    except ValueError:
        fix = "Give another video, or --no-crop if it is cut already."
        raise UserError("no face found in any frame", footage.name, fix) from None
    without = int((~track.seen).sum())
    note = (
        f"{footage.name}: {without} of {len(track.seen)} frames show no face; the square stays where it was"
    )
    return FramedFilm(partial(_tracked, footage, track), track, (note,) if without else ())


def _beside(path: Path | None, fps: float | None = None) -> Squares | None:
    """Squares from the landmarks beside a file, at ``fps``; None if there are none."""
    if path is None or not sidecar_of(path).is_file():
        return None
    try:
        squares = square_of_landmarks(read_sidecar(path))
    except Refused as error:
        raise UserError(str(error), str(path), "Mend or delete the landmarks beside it.") from None
    if fps is None:
        return squares
    own = probe(path).fps
    if abs(own - fps) < 1e-3:
        return squares
    shown = shown_frames(round(len(squares) * fps / own), own, fps)
    return squares[np.minimum(shown, len(squares) - 1)]


def _in_the_middle(footage: Footage, crop: bool) -> FramedFilm:
    first, frames = first_frame(footage)
    height, width = first.shape[:2]
    square = middle_square(width, height)
    track = FaceTrack(square[None], np.ones(1, bool))
    opened = [frames]  # a camera is opened once; anything else starts anew

    def framed() -> Iterator[FramedFrame]:
        again = opened.pop() if opened else footage.frames()
        return (FramedFrame(frame, middle_square(frame.shape[1], frame.shape[0]), True) for frame in again)

    return FramedFilm(framed, track, _guess_note(footage.name, width, height) if crop else ())


def _tracked(footage: Footage, track: FaceTrack) -> Iterator[FramedFrame]:
    for number, frame in enumerate(footage.frames()):
        yield FramedFrame(frame, track.square(number), track.was_seen(number))


def _live(footage: Footage, finder: FaceFinder) -> Iterator[FramedFrame]:
    """Each frame's square from the frames before it alone. Frames before the first face are left out."""
    square: NDArray[np.float64] | None = None
    for frame in footage.frames():
        found = next(iter(finder.squares([frame])))
        seen = bool(np.isfinite(found).all())
        if seen:
            square = found if square is None else square + LIVE_SHARE * (found - square)
        if square is not None:
            yield FramedFrame(frame, square, seen)


def _guess_note(name: str, width: int, height: int) -> tuple[str, ...]:
    return () if width == height else (f"{name}: {NO_FINDER}",)
