"""A video that libav opens: what its header claims, when its frames are shown, and the frames."""

from __future__ import annotations

import time
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av

from safa.decoder.protocol import Bounds, Refused
from safa.media_types import CONTAINERS

EARLY = Fraction(1)  # seconds before a span at which decoding starts; longer than most frames are shown
DEFAULT_RATE = Fraction(25)  # of a file that has no rate, e.g. of one frame
HIGHEST_RATE = 480  # frames per second; what claims more means the ticks of a clock


@dataclass(frozen=True, slots=True)
class Decoded:
    """A frame as it was decoded: its picture (an ``av.VideoFrame``), when it is shown, and which it is.

    Attributes:
        ticks: units of the file's ``time_base`` after its start.
        row: its number among the file's frames.
        length: for how many ticks it is shown; 0 if the file does not say.
    """

    picture: Any
    ticks: int
    row: int
    length: int


@dataclass(frozen=True, slots=True)
class Times:
    """When the frames of a file are shown.

    Attributes:
        ticks: of each frame, ascending.
        last: for how many ticks the last one is shown; 0 if that is unknown.
        complete: whether all of the file was looked at.
    """

    ticks: array[int]
    last: int
    complete: bool


class AvFile:
    """A video, by its file descriptor.

    Args:
        tolerant: leave out frames that are damaged, and list them in ``lost``, instead of refusing.

    Attributes:
        time_base: seconds in a tick.
        has_sound: whether there is a sound track.
        lost: ticks of the frames that were left out.

    Raises:
        Refused: it is no video that is known here.
    """

    def __init__(self, descriptor: int, bounds: Bounds, *, tolerant: bool) -> None:
        self._bounds, self._tolerant = bounds, tolerant
        av.logging.set_level(av.logging.ERROR)
        av.logging.set_skip_repeated(False)
        self._messages = av.logging.Capture(local=False).__enter__()
        options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
        try:
            self._container = av.open(
                f"file:/dev/fd/{descriptor}", options=options, metadata_errors="replace"
            )
        except av.ArgumentError:
            raise Refused("is of no kind of video that is read here") from None
        except (av.FFmpegError, OSError, ValueError) as error:
            raise Refused(reason_of(error)) from None
        streams = [stream for stream in self._container.streams.video if not _is_cover(stream)]
        if not streams:
            raise Refused("no picture stream")
        best = self._container.streams.best("video")
        self._stream: Any = best if best in streams else streams[0]
        self._stream.codec_context.thread_count = 1
        self.time_base = Fraction(self._stream.time_base or Fraction(1, 1000))
        start = self._container.start_time
        self._start = 0 if start is None else round(Fraction(start, av.time_base) / self.time_base)
        self.has_sound = bool(self._container.streams.audio)
        self.lost: list[int] = []

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    # ---- what the header claims ------------------------------------------------------------------------

    def rate(self) -> Fraction | None:
        """Frames per second; None if there is no such claim, or one that cannot be."""
        rate = self._stream.average_rate
        return Fraction(rate) if rate and 0 < rate <= HIGHEST_RATE else None

    def length(self) -> tuple[int | None, Fraction | None]:
        """Number of frames, and seconds; None where there is no claim."""
        stream, container = self._stream, self._container
        if stream.duration:
            return stream.frames or None, stream.duration * self.time_base
        seconds = Fraction(container.duration, av.time_base) if container.duration else None
        return stream.frames or None, seconds

    def aspect(self, picture: Any) -> Fraction:
        """Width of a pixel over its height."""
        aspect = self._stream.sample_aspect_ratio or self._stream.codec_context.sample_aspect_ratio
        return Fraction(aspect) if aspect and Fraction(1, 16) < aspect < 16 else Fraction(1)

    # ---- times -----------------------------------------------------------------------------------------

    def times(self, until: Fraction | None = None, patience: float | None = None) -> Times:
        """When frames are shown, from their packets, without decoding them.

        Args:
            until: seconds after which frames do not matter; None is the end.
            patience: seconds that this may take.

        Raises:
            Refused: too many frames; or the file breaks off, unless ``tolerant``.
        """
        deadline = None if patience is None else time.monotonic() + patience
        end = None if until is None else until / self.time_base
        found: set[int] = set()
        latest, length, complete = -1, 0, True
        try:
            for number, packet in enumerate(self._container.demux(self._stream)):
                if packet.pts is None or packet.is_discard or self._is_hidden(packet):
                    continue
                ticks = packet.pts - self._start
                found.add(ticks)
                if ticks > latest:
                    latest, length = ticks, packet.duration or 0
                if len(found) > self._bounds.frames:
                    raise Refused("", "frames")
                if end is not None and packet.dts is not None and packet.dts - self._start > end:
                    break
                if deadline is not None and number % 256 == 0 and time.monotonic() > deadline:
                    complete = False
                    break
        except av.FFmpegError as error:
            if not self._tolerant:
                raise Refused(reason_of(error)) from None
        return Times(array("q", sorted(found)), length, complete)

    def _is_hidden(self, packet: Any) -> bool:
        """Whether it is a frame of VP8 that others refer to and nobody sees."""
        return self._stream.codec_context.name == "vp8" and packet.size > 0 and not bytes(packet)[0] >> 4 & 1

    # ---- frames ----------------------------------------------------------------------------------------

    def frames(self, begin: Fraction = Fraction(0), rows: array[int] | None = None) -> Iterator[Decoded]:
        """Decode frames, from the one that is shown at ``begin`` seconds or from one before it.

        Args:
            rows: ticks of all frames up to the last one wanted; needed for ``Decoded.row`` if ``begin`` > 0.

        Raises:
            Refused: a frame is damaged, unless ``tolerant``; none is good; or a bound is passed.
        """
        needed = int(begin / self.time_base)  # ticks from which on damage matters
        if begin > EARLY:
            target = max(0, int((begin - EARLY) / self.time_base) + self._start)
            try:
                self._container.seek(target, stream=self._stream)
            except av.FFmpegError as error:
                raise Refused(f"cannot be read from {float(begin):.1f} s on ({reason_of(error)})") from None
        step = max(1, round(1 / ((self.rate() or DEFAULT_RATE) * self.time_base)))
        last: int | None = None
        moved = number = 0
        for number, (picture, stamp, damaged) in enumerate(self._pictures(needed), start=1):
            ticks = (-step if last is None else last) + step if stamp is None else stamp - self._start + moved
            if last is not None and ticks <= last:  # a recording whose clock was set back
                moved, ticks = moved + last + step - ticks, last + step
            last = ticks
            self._check_bounds(picture, ticks, number)
            if damaged and ticks >= needed:
                self._lose(ticks, "a damaged frame")
            else:
                row = number - 1 if rows is None else bisect_right(rows, ticks) - 1
                yield Decoded(picture, ticks, row, picture.duration or 0)
        if not number:
            raise Refused(self._messages[0][2].strip() if self._messages else "no frame can be decoded")

    def _check_bounds(self, picture: Any, ticks: int, number: int) -> None:
        if ticks * self.time_base > self._bounds.seconds:
            raise Refused("", "seconds")
        if picture.width * picture.height > self._bounds.pixels:
            raise Refused("", "pixels")
        if number > self._bounds.frames:
            raise Refused("", "frames")

    def _pictures(self, needed: int) -> Iterator[tuple[Any, int | None, bool]]:
        """All pictures that the decoder gives, when they are shown, and whether it complained about them."""
        shown: Any = None
        bad: set[int] = set()
        headless: list[int] | None = []  # packets before the first key frame; None once pictures come
        has_key = False
        for packet in self._packets():
            if not packet.size and packet.pts is not None:
                # The frame before stays, as in AVI and Theora. To the decoder it would mean the file's end.
                if shown is not None:
                    yield shown, packet.pts, False
                continue
            has_key = has_key or packet.is_keyframe
            stamp = packet.pts if packet.pts is not None else packet.dts
            matters = stamp is None or stamp - self._start >= needed
            try:
                pictures = packet.decode()
            except av.EOFError:
                pictures = []
            except av.FFmpegError as error:
                if matters:
                    self._lose((stamp or 0) - self._start, reason_of(error))
                continue
            if matters and (self._messages or packet.is_corrupt):
                reason = self._messages[0][2].strip() if self._messages else "a damaged packet"
                self._tolerate(reason)
                bad.add(packet.pts)
            if pictures and headless is not None:
                for ticks in headless:
                    self._lose(ticks, "does not start with a key frame")
                headless = None
            elif headless is not None and not has_key and stamp is not None and not packet.is_discard:
                headless.append(stamp - self._start)
            for picture in pictures:
                stamp = picture.pts if picture.pts is not None else picture.dts
                yield picture, stamp, picture.is_corrupt or stamp in bad
                shown = picture

    def _packets(self) -> Iterator[Any]:
        packets = self._container.demux(self._stream)
        while True:
            self._messages.clear()
            try:
                packet = next(packets, None)
            except av.FFmpegError as error:
                self._tolerate(reason_of(error))
                return
            if packet is None:
                return
            yield packet

    def _tolerate(self, reason: str) -> None:
        if not self._tolerant:
            raise Refused(reason or "damaged")

    def _lose(self, ticks: int, reason: str) -> None:
        self._tolerate(reason)
        self.lost.append(ticks)


def _is_cover(stream: Any) -> bool:
    """Whether it is the picture of a piece of music, which libav gives as a video stream."""
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def reason_of(error: BaseException) -> str:
    """An exception's own words, in one line."""
    text = (getattr(error, "strerror", None) or str(error)).strip()
    return text.splitlines()[-1][:200] if text else type(error).__name__
