"""The bytes of a pickle, read from front to back: numbers, strings and lines, each with a bounded length."""

from __future__ import annotations

import codecs
import re
import struct
import warnings

from safa.unpickle.work import Damaged, Forbidden

HIGHEST_PROTOCOL = 5
LONGEST_NUMBER = 256  # bytes of a whole number
LONGEST_LINE = 700  # bytes of a number or a name on a line; 256 bytes are 617 digits
_WHOLE = re.compile(rb"[+-]?[0-9]+L?\Z")


class Stream:
    """Reads from ``data`` at ``at``.

    Every method takes what it reads, and raises ``Damaged`` where the bytes are not what it reads.
    """

    def __init__(self, data: bytes, start: int) -> None:
        self.data, self.at = data, start

    def take(self, count: int) -> bytes:
        """The next ``count`` bytes."""
        start, end = self.at, self.at + count
        if end > len(self.data):
            raise Damaged("it ends too early")
        self.at = end
        return self.data[start:end]

    def byte(self) -> int:
        """The next byte; the same as ``number(1)``, and what most opcodes ask for."""
        at = self.at
        if at >= len(self.data):
            raise Damaged("it ends too early")
        self.at = at + 1
        return self.data[at]

    def number(self, size: int) -> int:
        """A whole number of ``size`` bytes, from 0 on."""
        return int.from_bytes(self.take(size), "little")

    def signed(self, size: int) -> int:
        """A whole number of ``size`` bytes."""
        return int.from_bytes(self.take(size), "little", signed=True)

    def double(self) -> float:
        """A number with a fraction, in 8 bytes."""
        value: float = struct.unpack(">d", self.take(8))[0]
        return value

    def sized(self, size: int) -> bytes:
        """Bytes behind their own number, which has ``size`` bytes."""
        return self.take(self.number(size))

    def text(self, size: int) -> str:
        """A string behind the number of its bytes, which has ``size`` bytes."""
        return self.sized(size).decode("utf-8", "surrogatepass")

    def long(self, size: int) -> int:
        """A whole number behind its length, which has ``size`` bytes."""
        length = self.number(size)
        if length > LONGEST_NUMBER:
            raise Forbidden(f"it holds a whole number of {length} bytes")
        return self.signed(length)

    def line(self, longest: int = LONGEST_LINE) -> bytes:
        """What stands before the next end of a line."""
        end = self.data.find(b"\n", self.at, self.at + longest)
        if end < 0:
            raise Damaged("a line without an end")
        line, self.at = self.data[self.at : end], end + 1
        return line

    def whole_line(self) -> int:
        """A whole number on a line; Python 2 writes an L behind long ones."""
        line = self.line()
        if not _WHOLE.match(line):
            raise Damaged("a number that is none")
        return int(line.rstrip(b"L"))

    def index_line(self) -> int:
        """A whole number on a line, from 0 on."""
        index = self.whole_line()
        if index < 0:
            raise Damaged("it numbers objects below zero")
        return index

    def int_line(self) -> int:
        """A whole number on a line, or a truth value: a digit with a nought before it."""
        truth = {b"00\n": False, b"01\n": True}.get(self.data[self.at : self.at + 3])
        if truth is None:
            return self.whole_line()
        self.at += 3
        return truth

    def float_line(self) -> float:
        """A number with a fraction on a line."""
        return float(self.line())

    def string_line(self) -> str:
        """A string of Python 2 on a line, as Python 2 would print it; its characters are bytes."""
        line = self.line(len(self.data)).strip()
        if len(line) < 2 or line[:1] not in (b"'", b'"') or line[-1:] != line[:1]:
            raise Damaged("a string without quotes")
        content = line[1:-1]
        if b"\\" in content:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about escapes that stand for themselves
                content = codecs.escape_decode(content)[0]
        return content.decode("latin1")

    def unicode_line(self) -> str:
        """A string on a line, what is not latin-1 as ``\\u`` and its number."""
        return self.line(len(self.data)).decode("raw-unicode-escape")

    def protocol(self) -> None:
        """The protocol's number, which says nothing that the opcodes do not."""
        if self.byte() > HIGHEST_PROTOCOL:
            raise Damaged("a protocol that does not exist")

    def frame(self) -> None:
        """How many bytes to fetch at once; all of them are here already."""
        if self.number(8) > len(self.data) - self.at:
            raise Damaged("it ends too early")
