"""Progress of long work: one line with counts, a rate and the time left, on a terminal or in a log."""

from __future__ import annotations

import logging
import sys
import time
from typing import Protocol

log = logging.getLogger(__name__)


class Sink(Protocol):
    """Shows lines of progress.

    Attributes:
        every: least number of seconds between two lines.
    """

    every: float

    def show(self, line: str) -> None:
        """Show one line."""
        ...

    def close(self) -> None:
        """Tidy up after the last line."""
        ...


class TerminalLine:
    """One line on standard error that is overwritten each time; nothing where no terminal is attached."""

    every = 0.5  # seconds

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()

    def show(self, line: str) -> None:
        """Overwrite the line."""
        if self._is_terminal:
            sys.stderr.write(f"\r{line}\033[K")
            sys.stderr.flush()

    def close(self) -> None:
        """Erase the line, so that the next output starts on a clean one."""
        if self._is_terminal:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()


class LogLines:
    """A line in the log every few seconds, each beginning with the name of the stage."""

    every = 5.0  # seconds

    def __init__(self, stage: str) -> None:
        self._stage = stage

    def show(self, line: str) -> None:
        """Log the line."""
        log.info("%s: %s", self._stage, line)

    def close(self) -> None:
        """Do nothing: log lines stay."""


class Progress:
    """Counts finished work and shows it now and then, and once more when all of it is done.

    Args:
        sink: where lines are shown.
        total: how many items there are; None if that is not known.
        noun: what the items are, in the plural, e.g. ``clips``.
    """

    def __init__(self, sink: Sink, total: int | None, noun: str) -> None:
        self._sink, self._total, self._noun = sink, total, noun
        self._count = self._frames = 0
        self._start = self._last_shown = time.monotonic()

    def add(self, count: int, n_frames: int) -> None:
        """Count ``count`` more finished items, which hold ``n_frames`` frames."""
        self._count += count
        self._frames += n_frames
        now = time.monotonic()
        if now - self._last_shown > self._sink.every or self._count == self._total:
            self._last_shown = now
            self._sink.show(self._line(max(now - self._start, 1e-9)))

    def close(self) -> None:
        """Tidy up: no more lines will follow."""
        self._sink.close()

    def _line(self, seconds: float) -> str:
        of_total = "" if self._total is None else f"/{self._total}"
        line = f"{self._count}{of_total} {self._noun}, {self._frames / seconds:.1f} frames/s"
        if self._total is None or not self._count:
            return line
        return f"{line}, {max(0, self._total - self._count) * seconds / self._count:.0f} s left"
