"""Options of animation, checked before anything is loaded or computed.

Messages name an option as Python callers write it; the command and the page say it in their own words
(``safa.commands.flags``, ``safa.app.work``).
"""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any, Literal, TypeGuard

import numpy as np

from safa.errors import UserError

BestFrame = int | Literal["find"]
FaceOption = int | tuple[float, float] | None  # a number from 1, the largest first; a place (x, y) in px

HIGHEST_FPS = 1000.0
SMALLEST_SIDE, LARGEST_SIDE = 16, 4096  # px, of a result
# What the command, the page and Python do if nothing is said.
RELATIVE = ADAPT_SCALE = False


def check_animate_options(
    *, relative: Any, adapt_scale: Any, best_frame: Any, fps: Any, max_frames: Any
) -> None:
    """Check the options of ``FaceAnimator.animate`` against each other.

    Raises:
        UserError: one is not of its type or range, or needs ``relative``.
    """
    check_switches(relative=relative, adapt_scale=adapt_scale)
    if isinstance(best_frame, str) and best_frame != "find":
        fix = 'Give a frame\'s number, counted from 0, or "find".'
        raise UserError(f"there is no way {best_frame!r:.80} to choose one", "best_frame", fix)
    if best_frame is not None and best_frame != "find":
        check_whole_number("best_frame", best_frame, 0)
    wanting = [("adapt_scale=True", adapt_scale), ('best_frame="find"', best_frame == "find")]
    wanting.append((f"best_frame={best_frame}", best_frame not in (None, "find")))
    for option, is_set in wanting:
        if is_set and not relative:
            raise UserError(f"{option} needs relative=True", "", "Add relative=True.")
    check_fps(fps)
    check_max_frames(max_frames)


def is_whole_number(value: Any) -> TypeGuard[int]:
    """Whether a value is a whole number, be it Python's or NumPy's; True and False are none."""
    return not isinstance(value, bool) and isinstance(value, Integral)


def _is_number(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, Real) and math.isfinite(value)


def check_progress(progress: Any) -> None:
    """Check a function that is called as work is done; None is fine.

    Raises:
        UserError: it cannot be called.
    """
    if progress is not None and not callable(progress):
        what = f"is of type {type(progress).__name__}, which cannot be called"
        raise UserError(what, "progress", "Give a function of the number of frames that are finished.")


def check_switches(**switches: Any) -> None:
    """Check options that are on or off: a text such as "no" would count as on.

    Raises:
        UserError: one is neither True nor False.
    """
    for name, value in switches.items():
        if not isinstance(value, bool | np.bool_):
            raise UserError(f"must be True or False, not {value!r:.80}", name)


def check_fps(fps: Any) -> None:
    """Check a frame rate; None is fine.

    Raises:
        UserError: it is no number in (0, 1000].
    """
    if fps is None:
        return
    if not (_is_number(fps) and 0 < fps <= HIGHEST_FPS):
        fix = f"Give a number greater than 0, at most {HIGHEST_FPS:g}."
        raise UserError(f"{fps!r:.80} is no frame rate", "fps", fix)


def check_max_frames(max_frames: Any) -> None:
    """Check a number of frames; None is fine.

    Raises:
        UserError: it is no whole number from 1 on.
    """
    if max_frames is not None:
        check_whole_number("max_frames", max_frames, 1)


def check_max_seconds(max_seconds: Any) -> None:
    """Check a length in seconds; None is fine.

    Raises:
        UserError: it is no positive number.
    """
    if max_seconds is None:
        return
    if not (_is_number(max_seconds) and max_seconds > 0):
        raise UserError(f"{max_seconds!r:.80} is no length", "max_seconds", "Give seconds greater than 0.")


def check_size(size: Any, *, paste_back: bool) -> None:
    """Check the size of results; None is fine.

    Raises:
        UserError: it is no whole number in range, or results are pasted back, which have the photo's size.
    """
    if size is None:
        return
    check_whole_number("size", size, SMALLEST_SIDE)
    if size > LARGEST_SIDE:
        raise UserError(f"{size} px is too large", "size", f"Give {LARGEST_SIDE} or less.")
    if paste_back:
        raise UserError("a size and paste_back=True exclude each other", "size", "Leave one of them out.")


def check_whole_number(name: str, value: Any, least: int) -> None:
    """Check that an option is a whole number and not too small.

    Raises:
        UserError: it is not.
    """
    if not is_whole_number(value):
        raise UserError(f"must be a whole number, not {value!r:.80}", name, f"Give {least} or more.")
    if value < least:
        raise UserError(f"must be {least} or more, not {value}", name)


def check_face(name: str, face: Any, *, crop: bool) -> None:
    """Check which face is chosen; None is fine.

    Raises:
        UserError: it is neither a whole number from 1 on nor a place, or no face is looked for.
    """
    if face is None:
        return
    if not crop:
        raise UserError(f"{name}={face} and crop=False exclude each other", "", "Leave one of them out.")
    if isinstance(face, tuple):
        if len(face) != 2 or not all(_is_number(value) and value >= 0 for value in face):
            raise UserError(f"{face!r:.80} is no place (x, y) in px", name, "Give two numbers from 0 on.")
        return
    if not is_whole_number(face):
        fix = "Give a number from 1 on, the largest first, or a place (x, y) in px."
        raise UserError(f"{face!r:.80} names no face", name, fix)
    check_whole_number(name, face, 1)


def check_place(name: str, face: FaceOption, width: int, height: int) -> None:
    """Check that a face's place lies in the picture, if the face is chosen that way.

    Raises:
        UserError: it lies outside.
    """
    if isinstance(face, tuple) and not (face[0] < width and face[1] < height):
        x, y = face
        raise UserError(f"({x:g}, {y:g}) is outside of the picture, {width} x {height} px", name)
