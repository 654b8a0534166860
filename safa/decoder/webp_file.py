"""An animated WebP, with the interface of ``AvFile``: libav has no demuxer for it, and Pillow has."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
import numpy as np
from PIL import Image, ImageSequence

from safa.decoder.av_file import Decoded, Times, reason_of
from safa.decoder.protocol import Bounds, Refused

MILLISECOND = Fraction(1, 1000)
SHORTEST, REPLACED = 10, 100  # ms: browsers show frames that claim less than the first for the second


class WebpFile:
    """An animated WebP, by its file descriptor; arguments and attributes as those of ``AvFile``."""

    def __init__(self, descriptor: int, bounds: Bounds) -> None:
        self.time_base, self.has_sound, self.lost = MILLISECOND, False, list[int]()
        self._bounds = bounds
        self._file = os.fdopen(os.dup(descriptor), "rb")
        self._file.seek(0)
        try:
            self._image = Image.open(self._file, formats=("WEBP",))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise Refused(reason_of(error)) from None
        if self._image.width * self._image.height > bounds.pixels:
            raise Refused("", "pixels")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def rate(self) -> Fraction | None:
        """None: the header has no rate."""
        return None

    def length(self) -> tuple[int | None, Fraction | None]:
        """None for both: durations stand beside the frames."""
        return None, None

    def aspect(self, picture: Any) -> Fraction:
        """Pixels are square."""
        return Fraction(1)

    def times(self, until: Fraction | None = None, patience: float | None = None) -> Times:
        """When frames are shown; they are decoded for that."""
        shown = [(frame.ticks, frame.length) for frame in self.frames()]
        return Times(array("q", (ticks for ticks, _ in shown)), shown[-1][1], True)

    def frames(self, begin: Fraction = Fraction(0), rows: array[int] | None = None) -> Iterator[Decoded]:
        """Decode all frames from the start, whatever ``begin``."""
        ticks = 0
        try:
            for number, image in enumerate(ImageSequence.Iterator(self._image)):
                if number >= self._bounds.frames:
                    raise Refused("", "frames")
                if ticks * MILLISECOND > self._bounds.seconds:
                    raise Refused("", "seconds")
                picture = av.VideoFrame.from_ndarray(np.asarray(image.convert("RGBA")), format="rgba")
                length = int(image.info.get("duration", 0))
                length = REPLACED if length < SHORTEST else length
                yield Decoded(picture, ticks, number, length)
                ticks += length
        except (OSError, ValueError, SyntaxError, EOFError) as error:
            raise Refused(reason_of(error)) from None
