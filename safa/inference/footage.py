"""Moving pictures in: a video or gif, a folder of pictures, one photo, a camera, or frames from memory.

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

from safa.data.video import DecodeError, Frame, probe, read_frames
from safa.errors import UserError
from safa.inference.photo import PHOTO_ENDINGS, read_photo

DEFAULT_FPS = 25.0  # of pictures that have no rate of their own
CAMERA_SIZE = (640, 480)  # width, height
_CAMERAS = {"linux": ("v4l2", "/dev/video{}"), "darwin": ("avfoundation", "{}")}


@dataclass(frozen=True)
class Footage:
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

    def limited(self, count: int | None) -> Footage:
        """The first ``count`` frames of it; None = all."""
        if count is None:
            return self
        known = count if self.count is None else min(count, self.count)
        inner = self._open
        return Footage(
            *(self.name, self.fps, known, self.again, self.file, self.has_sound),
            lambda: islice(inner(), count),
        )


def open_footage(driving: str | Path | Iterable[Frame], fps: float | None = None) -> Footage:
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


def _video(path: Path, fps: float | None) -> Footage:
    try:
        info = probe(path)
    except DecodeError as error:
        raise UserError(str(error), "", "Give a video that ffmpeg can read.") from None
    rate = fps or info.fps
    count = round(info.duration * rate) or None
    return Footage(path.name, rate, count, True, path, info.has_sound, lambda: read_frames(path, fps=rate))


def _folder(folder: Path, fps: float) -> Footage:
    paths = [path for path in folder.iterdir() if path.suffix.lower() in PHOTO_ENDINGS]
    if not paths:
        raise UserError("no pictures in this folder", str(folder), f"Known are {', '.join(PHOTO_ENDINGS)}.")
    return _pictures(folder.name, sorted(paths, key=_by_number), fps)


def _pictures(name: str, paths: list[Path], fps: float) -> Footage:
    return Footage(
        name, fps, len(paths), True, None, False, lambda: (read_photo(path).pixels for path in paths)
    )


def _from_memory(frames: Iterable[Frame], fps: float) -> Footage:
    again = iter(frames) is not frames  # a list starts anew each time, a generator goes on
    count = len(frames) if isinstance(frames, list | tuple | np.ndarray) else None
    return Footage("frames", fps, count, again, None, False, lambda: iter(frames))


def _camera(number: int, fps: float) -> Footage:
    kind = _CAMERAS.get(sys.platform)
    if kind is None:
        raise UserError(f"cameras are not supported on {sys.platform}", f"camera {number}", "Record a video.")
    device = kind[1].format(number)
    if sys.platform == "linux" and not Path(device).exists():
        raise UserError(f"there is no {device}", f"camera {number}", "Plug it in, or give a video.")
    return Footage(
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


def first_frame(footage: Footage) -> tuple[Frame, Iterator[Frame]]:
    """The first frame, and all frames including it; a camera is opened once.

    Raises:
        UserError: there is none.
    """
    frames = footage.frames()
    first = next(frames, None)
    if first is None:
        raise UserError("holds no frame", footage.name, "Give a video with pictures in it.")
    return first, chain([first], frames)


def _by_number(path: Path) -> list[tuple[int, int, str]]:
    """2.png before 10.png."""
    parts = re.split(r"(\d+)", path.name)
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part) for part in parts]
