"""Photos in, as upright RGB pictures, with a word about everything that had to be changed.

XXX Moving pictures in: a video or gif, a folder of pictures, one photo, a camera, or frames from memory.

Frames are (H, W, 3) uint8 RGB, upright, at a constant rate: frame n is what is seen n / fps seconds after the
file starts, so that pictures and sound stay together.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from safa.data.video import DecodeError, Frame, probe, read_frames
from safa.errors import UserError
from safa.visualize.images import RgbImage

PHOTO_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
LARGEST_SIDE = 16384  # px
SMALLEST_SIDE = 16
PAPER = (255, 255, 255)  # behind transparent parts
_SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N", "I")


@dataclass(frozen=True)
class Photo:
    """Attributes: pixels (H, W, 3) uint8 RGB, upright; notes, what was converted, one sentence each."""

    pixels: RgbImage
    notes: tuple[str, ...] = ()


def read_photo(path: Path) -> Photo:
    """Read a photo: upright by its EXIF tag, without transparency, 8 bits, RGB.

    Raises:
        UserError: not a readable picture, of floating-point values, or too small or large.
    """
    try:
        with Image.open(path) as picture:
            width, height = picture.size
            if max(width, height) > LARGEST_SIDE or min(width, height) < SMALLEST_SIDE:
                raise UserError(
                    f"is {width} x {height} px",
                    str(path),
                    f"Give a photo of {SMALLEST_SIDE} to {LARGEST_SIDE} px a side.",
                )
            picture.load()
            upright = ImageOps.exif_transpose(picture)
    except FileNotFoundError:
        raise UserError("no such photo", str(path), "Check the path.") from None
    except UnidentifiedImageError:
        raise UserError(
            "not a readable photo (of no known format)", str(path), "Give a JPEG or PNG."
        ) from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"not a readable photo ({error})", str(path), "Give a JPEG or PNG.") from None
    rgb, note = _to_rgb(upright, path)
    return Photo(np.asarray(rgb), (f"{path.name} {note}",) if note else ())


def _to_rgb(picture: Image.Image, path: Path) -> tuple[Image.Image, str]:
    """The picture in RGB, and what that took."""
    if picture.mode in _SIXTEEN_BITS:
        values = np.asarray(picture, np.float64)
        grey = Image.fromarray(np.rint(np.clip(values / 257, 0, 255)).astype(np.uint8))
        return grey.convert("RGB"), "has 16 bits a pixel; brought to 8"
    if picture.mode == "F":
        raise UserError("holds floating-point values", str(path), "Save it as an 8-bit JPEG or PNG.")
    if picture.mode == "CMYK":
        return picture.convert("RGB"), "is CMYK; converted to RGB, colours may differ from the print"
    if picture.has_transparency_data:
        pixels = picture.convert("RGBA")
        paper = Image.new("RGBA", pixels.size, (*PAPER, 255))
        note = "has transparent parts; they are drawn white"
        is_opaque = pixels.getchannel("A").getextrema() == (255, 255)
        return Image.alpha_composite(paper, pixels).convert("RGB"), "" if is_opaque else note
    return picture.convert("RGB"), ""


DEFAULT_FPS = 25.0  # of pictures that have no rate of their own
CAMERA_SIZE = (640, 480)  # width, height
_CAMERAS = {"linux": ("v4l2", "/dev/video{}"), "darwin": ("avfoundation", "{}")}


@dataclass(frozen=True)
class FrameSource:
    """Frames that can be asked for.

    Attributes:
        name: for messages.
        fps: their rate.
        count: how many there are, as far as is known before they are read.
        again: whether ``frames`` gives the same frames each time it is called; a camera doesn't.
        file: the video they come from, for its sound and its landmarks; None if there is none.
    """

    name: str
    fps: float
    count: int | None
    again: bool
    file: Path | None
    has_sound: bool
    _open: Callable[[], Iterator[Frame]]

    def frames(self) -> Iterator[Frame]:
        """All frames from the first one.

        Raises:
            UserError: when a frame cannot be decoded.
        """
        try:
            yield from self._open()
        except DecodeError as error:
            raise UserError(str(error), "", "Give a video that ffmpeg can read.") from None

    def limited(self, count: int | None) -> FrameSource:
        """The first ``count`` frames of it; None = all."""
        if count is None:
            return self
        known = count if self.count is None else min(count, self.count)
        inner = self._open
        return FrameSource(
            *(self.name, self.fps, known, self.again, self.file, self.has_sound),
            lambda: islice(inner(), count),
        )


def open_frame_source(driving: str | Path | Iterable[Frame], fps: float | None = None) -> FrameSource:
    """Tell what kind of input it is.

    Args:
        driving: path of a video, gif, photo or folder of pictures; the number of a camera; or frames.
        fps: rate to read a video at (None = its own), or that pictures and frames have (None = 25).

    Raises:
        UserError: no such file, or nothing readable in it.
    """
    if not isinstance(driving, str | Path):
        return _from_memory(driving, fps or DEFAULT_FPS)
    path = Path(driving)
    if path.is_dir():
        return _folder(path, fps or DEFAULT_FPS)
    if path.suffix.lower() in PHOTO_ENDINGS and path.is_file():
        return _pictures(path.name, [path], fps or DEFAULT_FPS)
    if str(driving).isdecimal() and not path.exists():
        return _camera(int(str(driving)), fps or DEFAULT_FPS)
    return _video(path, fps)


def _video(path: Path, fps: float | None) -> FrameSource:
    try:
        info = probe(path)
    except DecodeError as error:
        raise UserError(str(error), "", "Give a video that ffmpeg can read.") from None
    rate = fps or info.fps
    count = round(info.duration * rate) or None
    return FrameSource(
        path.name, rate, count, True, path, info.has_sound, lambda: read_frames(path, fps=rate)
    )


def _folder(folder: Path, fps: float) -> FrameSource:
    paths = [path for path in folder.iterdir() if path.suffix.lower() in PHOTO_ENDINGS]
    if not paths:
        raise UserError("no pictures in this folder", str(folder), f"Known are {', '.join(PHOTO_ENDINGS)}.")
    return _pictures(folder.name, sorted(paths, key=_by_number), fps)


def _pictures(name: str, paths: list[Path], fps: float) -> FrameSource:
    return FrameSource(
        name, fps, len(paths), True, None, False, lambda: (read_photo(path).pixels for path in paths)
    )


def _from_memory(frames: Iterable[Frame], fps: float) -> FrameSource:
    again = iter(frames) is not frames  # a list starts anew each time, a generator goes on
    count = len(frames) if isinstance(frames, list | tuple | np.ndarray) else None
    return FrameSource("frames", fps, count, again, None, False, lambda: iter(frames))


def _camera(number: int, fps: float) -> FrameSource:
    kind = _CAMERAS.get(sys.platform)
    if kind is None:
        raise UserError(f"cameras are not supported on {sys.platform}", f"camera {number}", "Record a video.")
    device = kind[1].format(number)
    if sys.platform == "linux" and not Path(device).exists():
        raise UserError(f"there is no {device}", f"camera {number}", "Plug it in, or give a video.")
    return FrameSource(
        f"camera {number}", fps, None, False, None, False, lambda: _camera_frames(kind[0], device, fps)
    )


def _camera_frames(kind: str, device: str, fps: float) -> Iterator[Frame]:
    """What the camera shows from now on, until nobody asks any more."""
    width, height = CAMERA_SIZE
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-f", kind, "-i", device]
    command += ["-vf", f"fps={fps},scale={width}:{height}", "-f", "rawvideo", "-pix_fmt", "rgb24", "pipe:"]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as camera:
        assert camera.stdout is not None
        try:
            while len(data := camera.stdout.read(width * height * 3)) == width * height * 3:
                yield np.frombuffer(data, np.uint8).reshape(height, width, 3)
        finally:
            camera.kill()


def first_frame(frame_source: FrameSource) -> tuple[Frame, Iterator[Frame]]:
    """The first frame, and all frames including it; a camera is opened once.

    Raises:
        UserError: there is none.
    """
    frames = frame_source.frames()
    first = next(frames, None)
    if first is None:
        raise UserError("holds no frame", frame_source.name, "Give a video with pictures in it.")
    return first, chain([first], frames)


def _by_number(path: Path) -> list[tuple[int, int, str]]:
    """2.png before 10.png."""
    parts = re.split(r"(\d+)", path.name)
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part) for part in parts]
