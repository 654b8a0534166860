"""Frame sources: videos, moving pictures, folders of images, and cameras.

Frames are (H, W, 3) uint8 RGB, upright. Every conversion that may surprise is noted. The frames of
a video come once each, with the times at which the file shows them, so that video and sound stay together;
all other frames come at a constant rate, as those of a video do if a rate is asked for.
"""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path

import imageio_ffmpeg
import numpy as np

from safa.data.video import DecodeError, Frame, FrameTimes, VideoReader
from safa.decimals import whole
from safa.errors import UserError
from safa.image_files import is_animated, open_image
from safa.inference.photos import read_photo
from safa.media_types import PHOTOS, is_photo
from safa.messages import count as counted

NOT_READABLE = "Open it in another program and save it as MP4."
DEFAULT_FPS = 25.0  # of images and frames, which have no rate of their own
MOST_GAPS = 1_000_000  # numbers that are looked at for gaps
CAMERA_SIZE = (640, 480)  # px, width and height
_CAMERAS = {"linux": ("v4l2", "/dev/video{}"), "darwin": ("avfoundation", "{}")}  # ffmpeg's format and device


@dataclass
class Playback:
    """What is learned of a video while its frames are read.

    Attributes:
        times: when its frames are shown; None if they were brought to a constant rate.
        rows: which frame of the file each of them is, as far as they have been read.
        lost: seconds at which damaged frames were left out; empty until the end has been read.
    """

    times: FrameTimes | None
    rows: list[int] = field(default_factory=list)
    lost: tuple[float, ...] = ()


@dataclass(frozen=True)
class FrameSource:
    """A stream of frames that has not been read yet.

    Attributes:
        name: for messages.
        fps: frames per second; of a video at its own times their mean.
        count: number of frames, without regard to damage; None if it is not known before they are read.
        repeatable: whether ``frames`` yields the same frames each time it is called; a camera doesn't.
        file: the video they come from, for its sound and its landmarks; None if there is none.
        has_sound: whether ``file`` has a sound track.
        playback: of a video, what is learned while it is read; None for all else.
        notes: what was found out about it, one sentence each.
        whole: whether it is read to its end.
    """

    name: str
    fps: float
    count: int | None
    repeatable: bool
    file: Path | None
    has_sound: bool
    _open: Callable[[], Iterator[Frame]]
    playback: Playback | None = None
    notes: tuple[str, ...] = ()
    whole: bool = True

    def frames(self) -> Iterator[Frame]:
        """Yield all frames from the first one on.

        Raises:
            UserError: a frame cannot be decoded.
        """
        try:
            yield from self._open()
        except DecodeError as error:
            raise UserError(str(error), "", NOT_READABLE) from None

    def limited(self, count: int | None, seconds: float | None = None) -> FrameSource:
        """Return a source of the first ``count`` frames and of the first ``seconds``; None keeps all.

        There is one frame at least.
        """
        if count is None and seconds is None:
            return self
        times = self.playback.times if self.playback else None
        counts = [number for number in (count, self.count) if number is not None]
        if seconds is not None:
            counts.append(max(1, round(seconds * self.fps)))  # of a video at its own times a guess
        known = min(counts)
        if times is None:
            count = known
        whole = self._open

        def part() -> Iterator[Frame]:
            for number, frame in enumerate(islice(whole(), count)):
                if number and seconds is not None and times is not None and times.seconds(number) >= seconds:
                    return
                yield frame

        return dataclasses.replace(self, count=known, whole=False, _open=part)

    def watched(self, look: Callable[[int, Frame], None]) -> FrameSource:
        """Return a source that calls ``look`` with each frame and its number; what that raises ends it."""
        whole = self._open

        def frames() -> Iterator[Frame]:
            for number, frame in enumerate(whole()):
                look(number, frame)
                yield frame

        return dataclasses.replace(self, _open=frames)


def open_frame_source(path: Path, fps: float | None = None) -> FrameSource:
    """Open any kind of moving input that is not in memory (for that, see ``safa.inference.pictures``).

    Args:
        path: of a video, GIF, photo or folder of images; where there is none, the number of a camera.
        fps: rate to bring a video to (None keeps its frames and their times), or of images (None is 25).

    Raises:
        UserError: there is no such file, or nothing readable in it.
    """
    if path.is_dir():
        return _folder(path, fps or DEFAULT_FPS)
    if is_photo(path.name) and path.is_file() and not moves(path):
        photo = _images(path.name, [path], fps or DEFAULT_FPS)
        return dataclasses.replace(photo, notes=(f"{path.name} is a photo: a video of one frame",))
    camera = whole(str(path))
    if camera is not None and not path.exists():
        return _camera(camera, fps or DEFAULT_FPS)
    return _video(path, fps)


def moves(path: Path) -> bool:
    """Whether a file is a moving picture, as a GIF, WebP or PNG can be."""
    try:
        with open_image(path, str(path)) as image:
            return is_animated(image)
    except (OSError, ValueError, SyntaxError):
        return False  # the error comes from whoever reads it as a photo


def _video(path: Path, fps: float | None) -> FrameSource:
    if not path.exists():
        raise UserError("no such video", str(path), "Check the path.")
    try:
        with VideoReader(path, tolerant=True, count=True) as reader:
            info, time_base = reader.info, reader.time_base
    except DecodeError as error:
        raise UserError(str(error), "", NOT_READABLE) from None
    playback = Playback(FrameTimes(time_base) if fps is None else None)

    def frames() -> Iterator[Frame]:
        with VideoReader(path, tolerant=True) as reader:
            for number, frame in enumerate(reader.frames(fps=fps)):
                if number == len(playback.rows):
                    playback.rows.append(frame.row)
                    if playback.times is not None:
                        playback.times.ticks.append(frame.ticks)
                yield frame.pixels
            playback.lost = reader.lost

    count = (round(info.duration * fps) or None) if fps else info.frames
    return FrameSource(path.name, fps or info.fps, count, True, path, info.has_sound, frames, playback)


def _folder(folder: Path, fps: float) -> FrameSource:
    paths = sorted((path for path in folder.iterdir() if is_photo(path.name)), key=_by_number)
    if not paths:
        raise UserError("no images in this folder", str(folder), f"Supported: {', '.join(PHOTOS)}.")
    return dataclasses.replace(_images(folder.name, paths, fps), notes=_gaps(folder.name, paths))


def _gaps(name: str, paths: list[Path]) -> tuple[str, ...]:
    """Say how many numbers are missing among frames that are numbered."""
    digits = [re.search(r"([0-9]+)$", path.stem) for path in paths]
    numbers = {int(match[1]) for match in digits if match}
    if len(numbers) < len(paths):
        return ()
    missing = sorted(set(range(min(numbers), min(max(numbers), min(numbers) + MOST_GAPS))) - numbers)
    if not missing:
        return ()
    return (f"{name}: {counted(len(missing), 'number')} missing among the frames, from {missing[0]} on",)


def _images(name: str, paths: list[Path], fps: float) -> FrameSource:
    return FrameSource(
        name, fps, len(paths), True, None, False, lambda: (read_photo(path).pixels for path in paths)
    )


def _camera(number: int, fps: float) -> FrameSource:
    kind = _CAMERAS.get(sys.platform)
    if kind is None:
        raise UserError(f"cameras are not supported on {sys.platform}", f"camera {number}", "Record a video.")
    device = kind[1].format(number)
    if sys.platform == "linux" and not Path(device).exists():
        raise UserError(f"there is no {device}", f"camera {number}", "Connect it, or give a video.")
    return FrameSource(
        f"camera {number}", fps, None, False, None, False, lambda: _camera_frames(kind[0], device, fps)
    )


def _camera_frames(kind: str, device: str, fps: float) -> Iterator[Frame]:
    """Yield what the camera sees, until the caller stops asking."""
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
    """Return the first frame, and all frames including it; a camera is opened only once.

    Raises:
        UserError: there is no frame.
    """
    frames = frame_source.frames()
    first = next(frames, None)
    if first is None:
        raise UserError("holds no frame", frame_source.name, "Give another video.")
    return first, chain([first], frames)


def _by_number(path: Path) -> list[tuple[int, int, str]]:
    """Sort key that puts 2.png before 10.png."""
    parts = re.split(r"([0-9]+)", path.name)
    return [(1, int(part), "") if "0" <= part[:1] <= "9" else (0, 0, part) for part in parts]
