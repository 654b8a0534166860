"""What the decoder and its caller say to each other.

Requests are lines of JSON on the decoder's standard input: ``{"do": "open"}``, ``{"do": "frames", ...}`` and
``{"do": "times"}``. Answers are records on its standard output: a header, and the bytes that it announces.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

# A record's kind; of a frame its channels, whether a scene begins, its height, width, bytes in a line of
# pixels, ticks and number in the file; the number of bytes that follow.
HEADER = struct.Struct("<cBBxIIIqqQ")
INFO, FRAME, AGAIN, TIMES, END, ERROR = b"I", b"F", b"A", b"T", b"E", b"X"
UNKNOWN = -1  # number in the file, of a frame that was asked for without ``rows``


class Refused(Exception):
    """The file cannot be read; or, with ``limit``, it passes the bound of that name."""

    def __init__(self, reason: str, limit: str = "") -> None:
        super().__init__(reason)
        self.limit = limit


@dataclass(frozen=True, slots=True)
class Bounds:
    """Bounds of ``safa.limits`` that the decoder keeps by itself.

    Attributes:
        memory: bytes of its address space.
        pixels: of one frame.
        frames: of one video.
        seconds: of one video's timestamps.
    """

    memory: int
    pixels: int
    frames: int
    seconds: int
