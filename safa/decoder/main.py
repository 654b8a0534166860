"""The decoder's program: it limits itself, then answers requests about the one file that it was given."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from collections.abc import Iterator
from fractions import Fraction
from itertools import chain
from typing import IO, TYPE_CHECKING, Any, TypeAlias

from safa.decoder.av_file import DEFAULT_RATE, AvFile, Decoded, Times
from safa.decoder.pictures import Converter, SceneCuts, upright_size
from safa.decoder.protocol import AGAIN, END, ERROR, FRAME, HEADER, INFO, TIMES, Bounds, Refused

if TYPE_CHECKING:
    from safa.decoder.webp_file import WebpFile

HALF = Fraction(1, 2)
LATE = Fraction(1, 1000)  # seconds by which a span's frames are moved: one half-way comes later
SCAN_SECONDS = 5.0  # how long packets are counted before the length of a file is guessed
HIGHEST_COUNTED = 100_000  # frames per second; high-speed cameras stay below
FEW, FITTING = 4, 0.002  # frames and share by which a header's rate may differ from what was counted

File: TypeAlias = "AvFile | WebpFile"


def main() -> None:
    """Answer the requests on standard input; the file is descriptor ``sys.argv[-1]``."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends whoever asks, and then this
    descriptor = int(sys.argv[-1])
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    settings = json.loads(sys.stdin.readline())
    bounds = Bounds(**settings["bounds"])
    resource.setrlimit(resource.RLIMIT_AS, (bounds.memory, bounds.memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    for line in sys.stdin:
        try:
            _answer(json.loads(line), descriptor, bounds, answers, tolerant=settings["tolerant"])
        except Refused as error:
            _send(answers, ERROR, _json({"reason": str(error), "limit": error.limit}))
        except MemoryError:
            _send(answers, ERROR, _json({"reason": "", "limit": "decoder_bytes"}))
        except BrokenPipeError:
            return


def _answer(
    request: dict[str, Any], descriptor: int, bounds: Bounds, answers: IO[bytes], *, tolerant: bool
) -> None:
    file = _opened(descriptor, bounds, tolerant=tolerant)
    try:
        if request["do"] == "open":
            _send(answers, INFO, _json(_info(file, descriptor, bounds, count=request["count"])))
        elif request["do"] == "times":
            times = file.times()
            _send(answers, TIMES, times.ticks.tobytes(), ticks=times.last)
        else:
            _send_frames(file, request, descriptor, bounds, answers)
            _send(answers, END, _json({"lost": _seconds(file)}))
    finally:
        file.close()


def _opened(descriptor: int, bounds: Bounds, *, tolerant: bool) -> File:
    head = os.pread(descriptor, 12, 0)
    if head[:4] == b"RIFF" and head[8:] == b"WEBP":
        # Imported when it is needed, with numpy and Pillow: a decoder starts for each clip.
        from safa.decoder.webp_file import WebpFile

        return WebpFile(descriptor, bounds)
    return AvFile(descriptor, bounds, tolerant=tolerant)


def _seconds(file: File) -> list[float]:
    return [round(float(ticks * file.time_base), 3) for ticks in file.lost[:10_000]]


# ---- what a file is ----------------------------------------------------------------------------------------


def _info(file: File, descriptor: int, bounds: Bounds, *, count: bool) -> dict[str, Any]:
    """Size, rate and length. ``count`` asks for the number of frames, which may take reading all packets."""
    first = next(file.frames(), None)
    if first is None:
        raise Refused("no frame can be decoded")
    height, width = upright_size(first.picture, file.aspect(first.picture))
    rate, (frames, seconds) = file.rate(), file.length()
    if seconds is None or rate is None or (count and frames is None):
        rate, frames, seconds = _counted(descriptor, bounds, rate, seconds)
    elif frames:
        rate = _mean(frames, seconds, rate)
    if seconds > bounds.seconds:
        raise Refused("", "seconds")
    return {
        "width": width,
        "height": height,
        "fps": float(rate),
        "duration": float(seconds),
        "frames": frames,
        "has_sound": file.has_sound,
        "time_base": [file.time_base.numerator, file.time_base.denominator],
    }


def _counted(
    descriptor: int, bounds: Bounds, rate: Fraction | None, seconds: Fraction | None
) -> tuple[Fraction, int | None, Fraction]:
    """Mean rate, number of frames (None if there are too many to be counted soon) and seconds."""
    file = _opened(descriptor, bounds, tolerant=True)
    try:
        times = file.times(patience=SCAN_SECONDS)
    finally:
        file.close()
    if not times.ticks:
        return rate or DEFAULT_RATE, None, seconds or Fraction(0)
    shown = _length(times, file.time_base, rate)
    if not times.complete and seconds is not None:
        return rate or len(times.ticks) / shown, None, seconds
    begin = max(0, times.ticks[0]) * file.time_base  # the pictures may start after the sound
    mean = _mean(len(times.ticks), shown - begin, rate)
    return mean, len(times.ticks) if times.complete else None, shown


def _mean(frames: int, seconds: Fraction, rate: Fraction | None) -> Fraction:
    """Frames per second: the header's where it fits, since that is exact."""
    if rate is not None and abs(rate * seconds - frames) < max(FEW, FITTING * frames):
        return rate
    return min(frames / seconds, Fraction(HIGHEST_COUNTED))


def _length(times: Times, time_base: Fraction, rate: Fraction | None) -> Fraction:
    """Seconds from the file's start to the end of its last frame."""
    ticks = times.ticks
    if times.last > 1:  # 1 is what a clock without durations gives
        last = times.last * time_base
    elif len(ticks) > 1:
        last = (ticks[-1] - ticks[0]) * time_base / (len(ticks) - 1)
    else:
        last = 1 / (rate or DEFAULT_RATE)
    return ticks[-1] * time_base + last


# ---- frames ------------------------------------------------------------------------------------------------


def _send_frames(
    file: File, request: dict[str, Any], descriptor: int, bounds: Bounds, answers: IO[bytes]
) -> None:
    """Send the frames of a request; one that is shown at several positions is sent once."""
    begin = Fraction(*request["begin"] or (0, 1))
    fps = Fraction(*request["fps"]) if request["fps"] else None
    count: int | None = request["count"]
    rows = None
    if begin and request["rows"]:
        until = None if fps is None or count is None else begin + count / fps
        timed = AvFile(descriptor, bounds, tolerant=True)
        rows = timed.times(until).ticks
        timed.close()
    decoded = file.frames(begin, rows)
    late = Fraction(0) if request["begin"] is None else LATE
    shown = _at_rate(decoded, file, begin - late, fps, bounds) if fps else ((frame, 1) for frame in decoded)
    converter = Converter(request["box"], request["size"])
    cuts: SceneCuts | None = None
    sent = 0
    for frame, times in shown:
        times = times if count is None else min(times, count - sent)
        if times < 1:
            break
        picture = converter.convert(frame.picture, file.aspect(frame.picture))
        if request["scene_cut"] is not None and cuts is None:
            cuts = SceneCuts(request["scene_cut"], picture)
        begins = cuts is not None and cuts.begins(picture)
        _send_frame(answers, picture, frame, begins=begins)
        for _ in range(times - 1):
            _send(answers, AGAIN, b"", ticks=frame.ticks, row=frame.row)
        sent += times
        if sent == count:
            break


def _at_rate(
    frames: Iterator[Decoded], file: File, begin: Fraction, fps: Fraction, bounds: Bounds
) -> Iterator[tuple[Decoded, int]]:
    """Frames with the number of positions at which they are shown; position n is n / fps seconds after begin.

    A frame takes the position nearest to its time, and stays until another one takes the next.
    """
    held: Decoded | None = None
    position = shown = 0
    step = 1 / (file.rate() or DEFAULT_RATE)
    length = step / file.time_base
    for frame in chain(frames, [None]):
        if frame is not None:
            time = frame.ticks * file.time_base - begin
        elif held is not None:
            time = (held.ticks + length) * file.time_base - begin
        else:
            return
        position = max(0, (time * fps + HALF).__floor__())
        if held is not None and position > shown:
            if position > bounds.frames:
                raise Refused("", "frames")
            yield held, position - shown
            shown = position
        if frame is not None:
            length = Fraction(frame.length) or step / file.time_base
        held = frame


def _send_frame(answers: IO[bytes], picture: Any, frame: Decoded, *, begins: bool) -> None:
    plane = picture.planes[0]
    data = memoryview(plane)[: plane.line_size * picture.height]
    channels = 4 if picture.format.name == "rgba" else 3
    header = HEADER.pack(
        FRAME,
        channels,
        begins,
        picture.height,
        picture.width,
        plane.line_size,
        frame.ticks,
        frame.row,
        len(data),
    )
    _write(answers, header)
    _write(answers, data)


def _send(answers: IO[bytes], kind: bytes, data: bytes, ticks: int = 0, row: int = 0) -> None:
    _write(answers, HEADER.pack(kind, 0, 0, 0, 0, 0, ticks, row, len(data)))
    _write(answers, data)


def _write(answers: IO[bytes], data: bytes | memoryview) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[answers.write(rest) :]


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode()
