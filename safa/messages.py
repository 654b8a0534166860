"""Messages to people: progress with rates, counts with their nouns, and how to install things."""

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
    """One line on standard error that is overwritten each time; where no terminal is, a line now and then."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._start = time.monotonic()
        self.every = 0.5 if self._is_terminal else 10.0  # seconds

    def show(self, line: str) -> None:
        """Overwrite the line."""
        if self._is_terminal:
            sys.stderr.write(f"\r{line}\033[K")
        elif time.monotonic() - self._start > self.every:  # what takes a moment needs no progress
            sys.stderr.write(f"{line}\n")
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
        """Count ``count`` more finished items, which hold ``n_frames`` frames; 0 if nobody counts them."""
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
        line = f"{self._count}{of_total} {self._noun}"
        line += f", {self._frames / seconds:.1f} frames/s" if self._frames else ""
        if self._total is None or not self._count:
            return line
        return f"{line}, {max(0, self._total - self._count) * seconds / self._count:.0f} s left"


# How to install things from a clone of the repository: `safa` on the package index is another project.
INSTALL = "make install"
INSTALL_DLIB = "`make install`, or on a cluster add the extra `dlib` where its nodes are set up"
INSTALL_IMAGENET = INSTALL_DLIB.replace("dlib", "imagenet")
INSTALL_APP = ".venv/bin/python -m pip install -e '.[app]'"
INSTALL_FACES = ".venv/bin/python -m pip install -e '.[faces]'"
INSTALL_ONNX = ".venv/bin/python -m pip install -e '.[onnx]'"
INSTALL_DOWNLOAD = ".venv/bin/python -m pip install -e '.[download]'"
INSTALL_TRACKER = {
    "mlflow": ".venv/bin/python -m pip install -e '.[mlflow]'",
    "wandb": ".venv/bin/python -m pip install -e '.[wandb]'",
}


def count(number: int, noun: str, plural: str = "") -> str:
    """Say how many there are: ``1 clip``, ``2 clips``.

    Args:
        plural: of a noun that does not take an ``s``, e.g. ``people``.
    """
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def duration(seconds: float) -> str:
    """Say how long something took: ``4.2 s``, ``3 min 05 s`` or ``2 h 07 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
