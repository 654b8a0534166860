"""Video files in and out, through ffmpeg, one frame at a time.

ffmpeg comes with the imageio-ffmpeg wheel, so none has to be installed; the graphs are built by ffmpeg-python
and never pass through a shell. Frames are (H, W, 3) uint8 RGB. Any length of video needs one frame of memory.
"""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import ffmpeg
import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray

from safa.data.crop import Box
from safa.files import Location, atomic_file

Frame = NDArray[np.uint8]
# Written into every file and obeyed when it is read: without it, players guess the matrix from the size.
BT709 = {"colorspace": "bt709", "color_primaries": "bt709", "color_trc": "bt709", "color_range": "tv"}

EARLY = 1.0  # seconds before a span at which decoding starts; longer than any frame is shown
LATE = 1e-3  # seconds by which frames are moved: those half-way between two positions take the later one


class DecodeError(Exception):
    """A video that cannot be read; the message ends with the last line of ffmpeg's output."""


@dataclass(frozen=True)
class VideoInfo:
    """What a video's header says. ``width`` and ``height`` are of the upright picture."""

    width: int
    height: int
    fps: float
    duration: float  # seconds
    has_sound: bool = False


@dataclass(frozen=True)
class Span:
    """A part of a video: frames ``start`` to ``end`` (exclusive), counted at ``fps`` frames per second."""

    start: int
    end: int
    fps: float


def probe(path: Path) -> VideoInfo:
    """Read a video's header.

    Raises:
        DecodeError: missing, or without a readable picture stream.
    """
    if not path.is_file():
        raise DecodeError(f"{path}: no such file")
    reader = imageio_ffmpeg.read_frames(str(path))
    try:
        meta: dict[str, Any] = next(reader)
    except (OSError, RuntimeError, ValueError, IndexError, StopIteration) as error:
        raise DecodeError(f"{path}: {_last_line(str(error))}") from None
    finally:
        reader.close()
    width, height = meta["size"]
    if width < 1 or height < 1 or meta["fps"] <= 0:
        raise DecodeError(f"{path}: no picture stream")
    has_sound = bool(meta.get("audio_codec"))
    return VideoInfo(width, height, float(meta["fps"]), float(meta["duration"]), has_sound)


def read_frames(
    path: Path,
    *,
    span: Span | None = None,
    box: Box | None = None,
    size: tuple[int, int] | None = None,
    fps: float | None = None,
) -> Generator[Frame, None, None]:
    """Decode, trim, crop and scale in one ffmpeg graph, and yield the frames as they come.

    Args:
        span: the part to read; None = all.
        box: the crop of the upright frame, inside it; None = all of it.
        size: (height, width) to scale to, by area averaging; None = as it is.
        fps: rate to bring the frames to; None = the span's, or the file's. Without a span, frame n is then
            what is seen n / fps seconds after the file starts, even if its picture starts after its sound.

    Raises:
        DecodeError: ffmpeg could not decode to the end of the span or file.
    """
    if size is None:
        info = probe(path)
        size = (box.height, box.width) if box else (info.height, info.width)
    command = _decode_command(path, span, box, size, fps)
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, stdin=subprocess.DEVNULL)
        assert process.stdout is not None
        try:
            num_bytes = size[0] * size[1] * 3
            while len(data := process.stdout.read(num_bytes)) == num_bytes:
                yield np.frombuffer(data, np.uint8).reshape(*size, 3)
            if data or process.wait() != 0 or errors.tell() > 0:
                _fail(path, errors)
        finally:
            process.stdout.close()
            process.kill()
            process.wait()


def _decode_command(
    path: Path, span: Span | None, box: Box | None, size: tuple[int, int], fps: float | None
) -> list[str]:
    stream = _trimmed(path, span) if span else ffmpeg.input(f"file:{path}").video
    if box:
        stream = stream.filter("crop", box.width, box.height, box.left, box.top, exact=1)
    if fps and not (span and span.fps == fps):
        stream = stream.filter("fps", fps=fps, **({} if span else {"start_time": 0}))
    stream = stream.filter("scale", size[1], size[0], flags="area+accurate_rnd+full_chroma_int")
    # No "same frame again" to keep a constant rate: what was decoded is what comes out.
    stream = stream.output("pipe:", format="rawvideo", pix_fmt="rgb24", fps_mode="passthrough")
    stream = stream.global_args("-nostdin", "-loglevel", "error", "-threads", "1")
    command: list[str] = stream.compile(cmd=imageio_ffmpeg.get_ffmpeg_exe())
    return command


def _trimmed(path: Path, span: Span) -> Any:
    """The stream of a span: frame n is what is seen n / fps seconds after the file starts.

    Decoding starts before the span, so that the picture which is on when it begins is decoded too.
    """
    begin = span.start / span.fps
    skipped = max(0.0, begin - EARLY)
    stream = ffmpeg.input(f"file:{path}", **({"ss": skipped} if skipped else {})).video
    stream = stream.filter("setpts", f"PTS-({begin - skipped - LATE})/TB")
    stream = stream.filter("fps", fps=span.fps, start_time=0)
    return stream.filter("trim", end_frame=span.end - span.start)


def write_video(
    path: Location,
    frames: Iterable[Frame],
    fps: float,
    *,
    crf: int = 18,
    comment: str | None = None,
    sound_from: Path | None = None,
) -> int:
    """Write H.264 in yuv420p, playable in any browser, atomically.

    An odd last row or column is repeated once, since yuv420p needs even sizes.

    Args:
        frames: (H, W, 3) uint8 RGB, all of one size, at least one.
        crf: x264 quality, 0 (lossless) to 51; 18 looks like the source.
        comment: stored as the file's ``comment`` tag.
        sound_from: a file whose sound goes along from its start, as AAC, as long as there are frames.

    Returns:
        The number of frames written.

    Raises:
        ValueError: no frame, or frames of different sizes.
        RuntimeError: ffmpeg failed.
    """
    iterator = iter(frames)
    first = next(iterator, None)
    if first is None:
        raise ValueError(f"{path}: no frame to write")
    with atomic_file(path) as temporary:
        return _encode(temporary, first, iterator, fps, crf, comment, sound_from)


def _encode(
    part: Path,
    first: Frame,
    rest: Iterator[Frame],
    fps: float,
    crf: int,
    comment: str | None,
    sound_from: Path | None,
) -> int:
    height, width = first.shape[:2]
    command = _encode_command(part, (height, width), fps, crf, comment, sound_from)
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors)
        assert process.stdin is not None
        count = 0
        try:
            # A broken pipe means that ffmpeg has ended; its exit code and last line say why.
            with contextlib.suppress(BrokenPipeError):
                for frame in _chain(first, rest):
                    if frame.shape != first.shape:
                        raise ValueError(f"frame {count} is {frame.shape}, the first was {first.shape}")
                    process.stdin.write(np.ascontiguousarray(frame).data)
                    count += 1
                process.stdin.close()
            if process.wait() != 0:
                raise RuntimeError(f"ffmpeg could not write {part.name}: {_last_message(errors)}")
        finally:
            process.kill()
            process.wait()
    return count


def _encode_command(
    part: Path, size: tuple[int, int], fps: float, crf: int, comment: str | None, sound_from: Path | None
) -> list[str]:
    height, width = size
    stream = ffmpeg.input("pipe:", format="rawvideo", pix_fmt="rgb24", s=f"{width}x{height}", framerate=fps)
    if height % 2 or width % 2:
        stream = stream.filter("pad", width + width % 2, height + height % 2)
        stream = stream.filter("fillborders", right=width % 2, bottom=height % 2, mode="smear")
    stream = stream.filter(
        "scale", out_color_matrix="bt709", out_range="tv", flags="accurate_rnd+full_chroma_int"
    )
    tags: dict[str, str | None] = {"metadata": f"comment={comment}"} if comment else {}
    streams = [stream]
    if sound_from:
        # Silence behind the sound: `shortest` then ends with the pictures, whichever is longer.
        streams.append(ffmpeg.input(f"file:{sound_from}").audio.filter("apad"))
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


def _chain(first: Frame, rest: Iterator[Frame]) -> Iterator[Frame]:
    yield first
    yield from rest


def _fail(path: Path, errors: Any) -> NoReturn:
    raise DecodeError(f"{path}: {_last_message(errors) or 'ended in the middle of a frame'}")


def _last_message(errors: Any) -> str:
    errors.seek(0)
    return _last_line(errors.read().decode(errors="replace"))


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""
