"""Video files in and out, one frame at a time: any length of video needs one frame of memory.

Files are read by ``safa.decoder``, a limited process of its own, frame by frame at their own timestamps. They
are written by ffmpeg, which comes with the imageio-ffmpeg wheel; its graphs are built by ffmpeg-python and
never pass through a shell. Frames are (H, W, 3) uint8 RGB, upright, with square pixels.
"""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import tempfile
from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import IO, Any, Self

import ffmpeg
import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray

from safa.data.crop import Box
from safa.decoder.process import DecodeError, DecoderProcess, RawFrame
from safa.errors import UserError
from safa.files import Location, atomic_file, shown
from safa.limits import VARIABLE, limit, over_limit
from safa.media_types import CONTAINERS
from safa.memory import bound_memory

__all__ = [
    "DecodeError",
    "Frame",
    "Span",
    "VideoFrame",
    "VideoInfo",
    "VideoReader",
    "probe",
    "read_frames",
    "write_video",
]

Frame = NDArray[np.uint8]
# Written into every file and obeyed when it is read: without it, players guess the matrix from the size.
BT709 = {"colorspace": "bt709", "color_primaries": "bt709", "color_trc": "bt709", "color_range": "tv"}
WRITE_FIX = "Make room on the disk, or write to another one."
_NO_MEMORY = re.compile("cannot allocate memory|malloc|pthread_create|external library", re.IGNORECASE)
WHITE = 255  # behind transparent parts


@dataclass(frozen=True)
class VideoInfo:
    """What a video is.

    Attributes:
        width: px of the upright picture with square pixels.
        height: px, likewise.
        fps: mean number of frames per second.
        duration: seconds from the start of the file to the end of its last frame.
        has_sound: whether there is a sound track.
        frames: number of frames; None if it was not asked for, or if counting takes long.
    """

    width: int
    height: int
    fps: float
    duration: float
    has_sound: bool = False
    frames: int | None = None


@dataclass(frozen=True)
class Span:
    """A part of a video: frames ``start`` to ``end`` (exclusive), counted at ``fps`` frames per second."""

    start: int
    end: int
    fps: float


@dataclass(frozen=True)
class VideoFrame:
    """A frame of a video.

    Attributes:
        pixels: (H, W, 3) uint8 RGB, read-only.
        ticks: when the file shows it, in units of the reader's ``time_base`` after its start.
        row: its number among the file's frames, e.g. in a file of landmarks.
        begins_scene: whether a scene begins with it; False unless that was asked for.
    """

    pixels: Frame
    ticks: int
    row: int
    begins_scene: bool = False


@dataclass(frozen=True)
class FrameTimes:
    """When frames are shown, as far as they are known.

    Attributes:
        time_base: seconds in a tick.
        ticks: of each frame after the start of the video, ascending; grows while frames are read.
    """

    time_base: Fraction
    ticks: list[int] = field(default_factory=list)

    def seconds(self, number: int) -> Fraction:
        """When a frame is shown, in seconds after the start."""
        return self.ticks[number] * self.time_base


class VideoReader:
    """One video and the process that decodes it; a context manager.

    Args:
        tolerant: leave out damaged frames, and list them in ``lost``, instead of refusing the file.
        count: find ``info.frames``, which may take reading the whole file without decoding it.

    Attributes:
        info: what the video is.
        time_base: seconds in a tick.
        lost: seconds at which frames were left out, once ``frames`` has come to its end.

    Raises:
        DecodeError: no such file, or no readable picture stream in it.
    """

    def __init__(self, path: Path, *, tolerant: bool = False, count: bool = False) -> None:
        self._process = DecoderProcess(path, tolerant=tolerant)
        self.lost: tuple[float, ...] = ()
        try:
            info = self._process.info(count=count)
        except BaseException:
            self._process.close()
            raise
        self.time_base = Fraction(*info.pop("time_base"))
        self.info = VideoInfo(**info)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        self._process.close()

    def frames(
        self,
        *,
        span: Span | None = None,
        box: Box | None = None,
        size: tuple[int, int] | None = None,
        fps: float | None = None,
        rows: bool = False,
        scene_cut: float | None = None,
    ) -> Generator[VideoFrame, None, None]:
        """Decode, trim, crop and scale, and yield the frames as they come.

        Args:
            span: the part to read; None = all. Its frame n is what is seen n / ``span.fps`` seconds after
                the file starts.
            box: the crop of the upright frame, inside it; None = all of it.
            size: (height, width) to scale to, by area averaging; None = as it is.
            fps: rate to bring the frames to: frame n is then what is seen n / fps seconds after the file (or
                span) starts, even if its picture starts after its sound. None = that of the span, and without
                a span each frame of the file once, whenever it is shown.
            rows: whether ``VideoFrame.row`` is needed of a span.
            scene_cut: least scene score, 0 to 1, with which ``VideoFrame.begins_scene``.

        Raises:
            DecodeError: it could not be decoded to the end of the span or file.
        """
        rate = fps or (span.fps if span else None)
        length = (span.end - span.start) / _exact(span.fps) if span else None  # seconds
        request: dict[str, Any] = {
            "begin": _ratio(span.start / _exact(span.fps)) if span else None,
            "count": round(length * _exact(rate)) if length and rate else None,
            "fps": _ratio(_exact(rate)) if rate else None,
            "box": [box.left, box.top, box.width, box.height] if box else None,
            "size": list(size) if size else None,
            "rows": rows,
            "scene_cut": scene_cut,
        }
        last: RawFrame | None = None
        for item in self._process.frames(request):
            if isinstance(item, dict):
                self.lost = tuple(item["lost"])
                return
            pixels = item.pixels
            if last is None or pixels is not last.pixels:
                opaque = _on_white(pixels)
            last = item
            yield VideoFrame(opaque, item.ticks, item.row, item.begins_scene)


def _exact(rate: float) -> Fraction:
    """29.97 as 2997/100, not as the binary fraction next to it."""
    return Fraction(repr(float(rate)))


def _ratio(number: Fraction) -> list[int]:
    return [number.numerator, number.denominator]


def _on_white(pixels: Frame) -> Frame:
    """Draw transparent pixels (H, W, 4) over white; (H, W, 3) stays as it is."""
    if pixels.shape[2] == 3:
        return pixels
    alpha = pixels[..., 3:].astype(np.float32) / 255
    drawn: Frame = np.rint(pixels[..., :3] * alpha + WHITE * (1 - alpha)).astype(np.uint8)
    drawn.flags.writeable = False
    return drawn


def probe(path: Path, *, count: bool = False) -> VideoInfo:
    """Read what a video is; ``count`` finds the number of its frames, too.

    Raises:
        DecodeError: missing, or without a readable picture stream.
    """
    with VideoReader(path, count=count) as reader:
        return reader.info


def read_frames(
    path: Path,
    *,
    span: Span | None = None,
    box: Box | None = None,
    size: tuple[int, int] | None = None,
    fps: float | None = None,
) -> Generator[Frame, None, None]:
    """Open a video and yield the pictures of ``VideoReader.frames``.

    Raises:
        DecodeError: it could not be decoded to the end of the span or file.
    """
    with VideoReader(path) as reader:
        for frame in reader.frames(span=span, box=box, size=size, fps=fps):
            yield frame.pixels


def write_video(
    path: Location,
    frames: Iterable[Frame],
    fps: float,
    *,
    times: FrameTimes | None = None,
    crf: int = 18,
    comment: str | None = None,
    sound_from: Path | None = None,
) -> int:
    """Write H.264 in yuv420p, playable in any browser, atomically.

    An odd last row or column is repeated once, since yuv420p needs even sizes.

    Args:
        frames: (H, W, 3) uint8 RGB, all of one size, at least one.
        fps: frames per second.
        times: when each frame is shown, instead of at a constant rate; it may grow with the frames.
        crf: x264 quality, 0 (lossless) to 51; 18 looks like the source.
        comment: stored as the file's ``comment`` tag.
        sound_from: a file whose sound goes along from its start, as AAC, as long as there are frames.

    Returns:
        The number of frames written.

    Raises:
        ValueError: no frame, or frames of different sizes.
        UserError: ffmpeg could not write it, e.g. since the disk is full.
    """
    iterator = iter(frames)
    first = next(iterator, None)
    if first is None:
        raise ValueError(f"{path}: no frame to write")
    with atomic_file(path) as temporary:
        stream, tags = _raw_input(first, fps, times)
        command = _encode_command(temporary, stream, first, crf, comment, sound_from, tags)
        return _encode(command, shown(path), chain([first], iterator), times)


def _encode(command: list[str], name: str, frames: Iterable[Frame], times: FrameTimes | None) -> int:
    shape: tuple[int, ...] | None = None
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors)
        bound_memory(process.pid, limit("encoder_bytes"))  # before it sees the first byte
        assert process.stdin is not None
        count = 0
        try:
            # A broken pipe means that ffmpeg has ended; its exit code and last line say why.
            with contextlib.suppress(BrokenPipeError):
                pipe = _NutPipe(process.stdin, times) if times else _PixelPipe(process.stdin)
                for frame in frames:
                    shape = shape or frame.shape
                    if frame.shape != shape:
                        raise ValueError(f"frame {count} is {frame.shape}, the first was {shape}")
                    pipe.write(np.ascontiguousarray(frame))
                    count += 1
                pipe.close()
            try:
                code = process.wait(limit("encoder_seconds"))
            except subprocess.TimeoutExpired:
                raise over_limit("encoder_seconds", name) from None
            if code:
                raise _write_error(_messages(errors), code, name)
        finally:
            process.kill()
            process.wait()
    return count


class _PixelPipe:
    """Writes frames to ffmpeg as bare pixels, which come at a constant rate."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe = pipe

    def write(self, frame: Frame) -> None:
        self._pipe.write(frame.data)

    def close(self) -> None:
        self._pipe.close()


class _NutPipe:
    """Writes frames to ffmpeg in a NUT container, which holds the time of each."""

    def __init__(self, pipe: IO[bytes], times: FrameTimes) -> None:
        import av  # takes 0.1 s, and most videos have a constant rate

        self._new_picture: Any = av.VideoFrame.from_ndarray
        self._pipe, self._times, self._count = pipe, times, 0
        self._nut = av.open(pipe, "w", format="nut")
        self._stream: Any = None

    def write(self, frame: Frame) -> None:
        if self._stream is None:
            self._stream = self._nut.add_stream("rawvideo", width=frame.shape[1], height=frame.shape[0])
            self._stream.pix_fmt, self._stream.time_base = "rgb24", self._times.time_base
            self._stream.codec_context.time_base = self._times.time_base
        picture = self._new_picture(frame, format="rgb24")
        picture.pts, picture.time_base = self._times.ticks[self._count], self._times.time_base
        self._nut.mux(self._stream.encode(picture))
        self._count += 1

    def close(self) -> None:
        self._nut.close()
        self._pipe.close()


def _raw_input(first: Frame, fps: float, times: FrameTimes | None) -> tuple[Any, dict[str, Any]]:
    """The stream that ffmpeg reads from the pipe, and options of the output that go with it."""
    height, width = first.shape[:2]
    if times is None:
        raw = {"format": "rawvideo", "pix_fmt": "rgb24", "s": f"{width}x{height}", "framerate": fps}
        return ffmpeg.input("pipe:", **raw), {}
    base = f"{times.time_base.numerator}:{times.time_base.denominator}"
    start = float(times.seconds(0))  # ffmpeg moves whatever it reads to a start at 0
    # With B-frames the last frames of an MP4 would count as decoded early, and its length be too short.
    # Nobody but us knows for how long the last frame is shown.
    length = f"setts=duration={1 / fps}/TB"
    timing = {"fps_mode": "passthrough", "enc_time_base": base, "bf": 0, "bsf:v": length}
    return ffmpeg.input("pipe:", format="nut", itsoffset=start), timing


def _encode_command(
    part: Path,
    stream: Any,
    first: Frame,
    crf: int,
    comment: str | None,
    sound_from: Path | None,
    timing: dict[str, Any],
) -> list[str]:
    height, width = first.shape[:2]
    if height % 2 or width % 2:
        stream = stream.filter("pad", width + width % 2, height + height % 2)
        stream = stream.filter("fillborders", right=width % 2, bottom=height % 2, mode="smear")
    stream = stream.filter(
        "scale", out_color_matrix="bt709", out_range="tv", flags="accurate_rnd+full_chroma_int"
    )
    # Encoders take these from the frames, and no more from options of the output.
    stream = stream.filter(
        "setparams", colorspace="bt709", color_primaries="bt709", color_trc="bt709", range="tv"
    )
    tags: dict[str, Any] = timing | ({"metadata": f"comment={comment}"} if comment else {})
    streams = [stream]
    if sound_from:
        # Silence behind the sound: `shortest` then ends with the pictures, whichever is longer.
        # No other file is opened by a list inside this one, whatever its name.
        formats = f"{CONTAINERS},wav"
        source = ffmpeg.input(f"file:{sound_from}", protocol_whitelist="file", format_whitelist=formats)
        streams.append(source.audio.filter("apad"))
        tags |= {"acodec": "aac", "audio_bitrate": "192k", "shortest": None}
    stream = ffmpeg.output(
        *streams,
        f"file:{part}",
        vcodec="libx264",
        pix_fmt="yuv420p",
        crf=crf,
        movflags="+faststart",
        **BT709,
        **tags,
    )
    stream = stream.global_args("-loglevel", "error", "-threads", "2").overwrite_output()
    command: list[str] = stream.compile(cmd=imageio_ffmpeg.get_ffmpeg_exe())
    return command


def _messages(errors: Any) -> str:
    errors.seek(0)
    text: str = errors.read().decode(errors="replace")
    return text


def _write_error(text: str, code: int, name: str) -> UserError:
    if code == -signal.SIGXFSZ:  # a quota of the shell or of a batch system
        return UserError("cannot be written (it is larger than files may be)", name, WRITE_FIX)
    if code < 0 or _NO_MEMORY.search(text):  # libx264 mostly crashes where there is no memory
        reason = f"signal {-code}" if code < 0 else _last_line(text)
        fix = f"If it needs more memory, raise the limit: {VARIABLE}=encoder_bytes=NUMBER."
        return UserError(f"the program that writes it broke off ({reason})", name, fix)
    return UserError(f"cannot be written ({_last_line(text)})", name, WRITE_FIX)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""
