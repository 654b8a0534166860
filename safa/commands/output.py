"""What a command shows while it works: notes on standard error, and the progress of a video."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from safa.progress import Progress, TerminalLine

if TYPE_CHECKING:
    from safa.inference.video_output import RenderedVideo, SavedVideo


def print_notes(notes: Iterable[str]) -> None:
    """Write one line for each thing that was guessed or converted."""
    for note in notes:
        sys.stderr.write(f"note: {note}\n")


def write_video_file(video: RenderedVideo, output: Path, grid: Path | None = None) -> SavedVideo:
    """Write the video, with a progress line on a terminal.

    Raises:
        UserError: a frame that the model cannot take, or as ``RenderedVideo.save``.
    """
    from safa.errors import UserError

    progress = Progress(TerminalLine(), video.count, "frames")
    try:
        return video.save(output, grid, lambda _: progress.add(1, 1))
    except ValueError as error:
        raise UserError(str(error), str(output)) from None
    finally:
        progress.close()
