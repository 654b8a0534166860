"""Pictures and frames that are in memory already, as Python callers have them, converted to 8-bit RGB.

Taken are PIL images, NumPy arrays and torch tensors: grey (H, W), or 1, 3 or 4 channels first or last; uint8,
uint16, or floating-point values in [0, 1]. Transparent parts become white. Everything else is refused in one
line, since a wrong guess would be a wrong picture.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Set, Sized
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, ImageSequence
from torch import Tensor

from safa.errors import UserError
from safa.files import Location, location
from safa.inference.inputs import DEFAULT_FPS, FrameSource, open_frame_source
from safa.inference.options import is_whole_number
from safa.inference.photos import SMALLEST_SIDE, Photo, read_photo, to_pixels
from safa.limits import check_limit
from safa.paths import local_path
from safa.visualize.images import RgbImage

PathLike = str | os.PathLike[str]
Picture = PathLike | Image.Image | NDArray[Any] | Tensor
Video = Picture | int | Iterable[Picture] | FrameSource

CHANNELS = (1, 3, 4)
ROUNDING = 1e-3  # how far floating-point values may leave [0, 1], as after a bicubic filter
TAKEN = "Give a path, a PIL image, or an array (H, W, 3) of uint8 or of floats in [0, 1]."
VIDEOS_TAKEN = "Give a path, a camera's number, or pictures: an array (T, H, W, 3), a list, a generator."


def path_of(value: object, name: str = "the photo") -> Path | None:
    """Return the path that a caller gave; None where a picture or frames were given instead.

    Args:
        name: what it is the path of, for messages.

    Raises:
        UserError: it is a path of bytes, empty, or an address in a network.
    """
    if isinstance(value, bytes):
        raise UserError("a path must be text, not bytes", repr(value)[:80], "Decode it first.")
    return local_path(value, name) if isinstance(value, str | os.PathLike) else None


def to_location(name: str, value: object) -> Location:
    """Return the path or URI that a caller gave.

    Args:
        name: what it is for, for messages.

    Raises:
        UserError: it is neither.
    """
    if isinstance(value, str) and "://" in value:
        return location(value)
    path = path_of(value, name)
    if path is None:
        raise UserError(f"is of type {type(value).__name__}", name, "Give a path.")
    return path


def photo_of(source: Picture, name: str = "the photo") -> Photo:
    """Read or convert a photo.

    Args:
        source: a path, or a picture in memory.
        name: of a picture in memory, for messages.

    Raises:
        UserError: it cannot be read, or is nothing that could be a picture.
    """
    path = path_of(source, name)
    if path is not None:
        return read_photo(path)
    if isinstance(source, Image.Image):
        return _of_image(source, name)
    if isinstance(source, Tensor | np.ndarray):
        return _of_array(source, name)
    raise UserError(f"is of type {type(source).__name__}, which is no picture", name, TAKEN)


def frame_source_of(driving: Video, fps: float | None = None) -> FrameSource:
    """Open any kind of moving input that a Python caller may have.

    Args:
        driving: a path (video, GIF, photo, folder of pictures); a camera's number; one picture; anything
            that yields pictures, e.g. an array (T, H, W, 3), a list, a generator; or what is open already.
        fps: rate to read a video at (None is its own), or that pictures have (None is 25).

    Raises:
        UserError: there is no such file, nothing readable in it, or nothing that could be frames.
    """
    if isinstance(driving, FrameSource):
        return driving
    path = path_of(driving, "the video")
    if path is not None:
        return open_frame_source(path, fps)
    if is_whole_number(driving):
        return open_frame_source(Path(str(int(driving))), fps)
    if isinstance(driving, Image.Image):
        return _in_memory([each.copy() for each in ImageSequence.Iterator(driving)], fps)
    if isinstance(driving, Tensor | np.ndarray):
        shape = tuple(driving.shape)
        if len(shape) == 2 or (len(shape) == 3 and (shape[-1] in CHANNELS or shape[0] in CHANNELS)):
            return _in_memory([driving], fps)
        if len(shape) not in (3, 4):
            raise UserError(f"have the shape {shape}", "the frames", "Give (T, H, W, 3).")
        return _in_memory(driving, fps)
    if isinstance(driving, Mapping | Set) or not isinstance(driving, Iterable):
        what = f"are of type {type(driving).__name__}, which is no video"
        raise UserError(what, "the frames", VIDEOS_TAKEN)
    return _in_memory(driving, fps)


def _in_memory(frames: Any, fps: float | None) -> FrameSource:
    """Frames of any kind; what can be gone through only once is refused the second time."""
    repeatable = not isinstance(frames, Iterator)
    begun = False

    def frames_again() -> Iterator[RgbImage]:
        nonlocal begun
        if begun and not repeatable:
            fix = "Give a list, or ask for a new video."
            raise UserError("come from a generator, which can be read only once", "the frames", fix)
        begun = True
        return pictures()

    def pictures() -> Iterator[RgbImage]:
        number = -1
        for number, frame in enumerate(frames):
            yield photo_of(frame, f"frame {number}").pixels
        if number < 0:
            raise UserError("are none", "the frames", "Give at least one.")

    count = len(frames) if isinstance(frames, Sized) else None
    return FrameSource("frames", fps or DEFAULT_FPS, count, repeatable, None, False, frames_again)


def _of_image(image: Image.Image, name: str) -> Photo:
    try:
        upright = ImageOps.exif_transpose(image)
    except (OSError, SyntaxError, ValueError) as error:  # a file that Pillow has not read yet
        raise UserError(f"cannot be read ({error})", name, "Give another picture.") from None
    _check_size(upright.height, upright.width, name)
    pixels, notes = to_pixels(upright, name)
    return Photo(pixels, tuple(f"{name} {note}" for note in notes))


def _of_array(value: Tensor | NDArray[Any], name: str) -> Photo:
    array = _numpy(value)
    shape = tuple(array.shape)
    if array.ndim == 3 and shape[-1] not in CHANNELS and shape[0] in CHANNELS:
        array = np.moveaxis(array, 0, -1)  # (C, H, W) -> (H, W, C)
    if array.ndim == 2:
        array = array[..., None]  # (H, W) -> (H, W, 1)
    if array.ndim != 3 or array.shape[-1] not in CHANNELS:
        raise UserError(f"has the shape {shape}", name, "Give (H, W), (H, W, 3), (H, W, 4) or (3, H, W).")
    _check_size(array.shape[0], array.shape[1], name)
    pixels, note = _eight_bits(array, name)
    kind = {1: "L", 3: "RGB", 4: "RGBA"}[pixels.shape[-1]]
    squeezed = pixels[..., 0] if kind == "L" else pixels
    rgb, converted = to_pixels(Image.fromarray(np.ascontiguousarray(squeezed)), name)
    return Photo(rgb, tuple(f"{name} {text}" for text in (note, *converted) if text))


def _numpy(value: Tensor | NDArray[Any]) -> NDArray[Any]:
    if isinstance(value, np.ndarray):
        return value
    dense = value.detach().to_dense() if value.is_sparse else value.detach()
    array: NDArray[Any] = (dense.float() if dense.is_floating_point() else dense).cpu().numpy()
    return array


def _eight_bits(array: NDArray[Any], name: str) -> tuple[NDArray[np.uint8], str]:
    """Convert values (H, W, C) to uint8; also return a note, empty if nothing was lost."""
    if array.dtype == np.uint8:
        return array, ""
    if array.dtype == np.uint16:
        if 0 < array.max() < 256:
            fix = "Convert it to uint8."
            raise UserError("holds 8-bit values as uint16, whose white is 65535", name, fix)
        return np.rint(array / 257).astype(np.uint8), "has 16 bits per channel; reduced to 8"
    if not np.issubdtype(array.dtype, np.floating):
        fix = "Convert it to uint8, or to floats in [0, 1]."
        raise UserError(f"holds values of type {array.dtype}", name, fix)
    low, high = float(array.min()), float(array.max())
    if not np.isfinite([low, high]).all():
        raise UserError("holds values that are no numbers (NaN or infinity)", name, "Remove them.")
    if not (low >= -ROUNDING and high <= 1 + ROUNDING):  # not so for NaN, too
        fix = "Floats must lie in [0, 1]: divide by 255, or convert to uint8."
        raise UserError(f"holds values from {low:.4g} to {high:.4g}", name, fix)
    return np.rint(array.clip(0, 1) * 255).astype(np.uint8), ""


def _check_size(height: int, width: int, name: str) -> None:
    check_limit("pixels", width * height, name)
    if min(width, height) < SMALLEST_SIDE:
        fix = f"Give a picture of at least {SMALLEST_SIDE} px a side."
        raise UserError(f"is {width} x {height} px", name, fix)
