"""What a command says while it works and when it is done."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from safa.inference.video_output import RenderedVideo, SavedVideo

EVERY_SECONDS = 0.5


class Progress:
    """A line on the terminal that counts frames; nothing at all where nobody watches.

    Args:
        total: how many there will be, if that is known.
    """

    def __init__(self, total: int | None) -> None:
        self._total = total
        self._start = self._shown = time.monotonic()
        self._watched = sys.stderr.isatty()

    def __call__(self, done: int) -> None:
        """``done`` frames are there."""
        now = time.monotonic()
        if not self._watched or now - self._shown < EVERY_SECONDS:
            return
        self._shown = now
        rate = done / (now - self._start)
        left = f", {(self._total - done) / rate:.0f} s left" if self._total and self._total > done else ""
        of = f"/{self._total}" if self._total else ""
        sys.stderr.write(f"\r{done}{of} frames, {rate:.1f} a second{left}   ")
        sys.stderr.flush()

    def close(self) -> None:
        """Leave the line clean for what comes next."""
        if self._watched:
            sys.stderr.write("\r\033[K")


def say_notes(notes: Iterable[str]) -> None:
    """What was guessed or converted, one line each."""
    for note in notes:
        sys.stderr.write(f"note: {note}\n")


def write_video_file(video: RenderedVideo, output: Path, grid: Path | None = None) -> SavedVideo:
    """Write the video with a line of progress; faults of the model's inputs as one line."""
    from safa.errors import UserError

    progress = Progress(video.count)
    try:
        return video.save(output, grid, progress)
    except ValueError as error:
        raise UserError(str(error), str(output)) from None
    finally:
        progress.close()
