"""Output of inference as GIFs and single pictures, marked as synthetic like the videos."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from safa.data.video import Frame, FrameTimes
from safa.errors import UserError
from safa.files import atomic_file

PICTURES = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg"}


def write_gif(
    path: Path, frames: Iterable[Frame], fps: float, comment: str, times: FrameTimes | None = None
) -> int:
    """Write an endless GIF atomically, each frame with its own 256 colours. Returns the number of frames.

    Args:
        times: when each frame is shown, instead of at a constant rate.

    Raises:
        UserError: there is no frame.
    """
    images = [Image.fromarray(frame).quantize(256, dither=Image.Dither.FLOYDSTEINBERG) for frame in frames]
    if not images:
        raise UserError("there is no frame to write", str(path))
    with atomic_file(path) as temporary:
        images[0].save(
            temporary,
            "gif",
            save_all=True,
            append_images=images[1:],
            duration=_durations(len(images), fps, times),
            loop=0,
            comment=comment.encode(),
        )
    return len(images)


def _durations(count: int, fps: float, times: FrameTimes | None) -> list[int]:
    """Milliseconds for which each frame is shown, in tens, whose errors do not add up."""
    if times is None:
        starts = [round(100 * number / fps) for number in range(count + 1)]
    else:
        starts = [round(100 * times.seconds(number)) for number in range(count)]
        starts.append(starts[-1] + round(100 / fps))
    return [10 * max(1, end - start) for start, end in pairwise(starts)]


def write_picture(path: Path, frames: Iterable[Frame], comment: str) -> int:
    """Write the first frame as a picture, atomically. Returns the number of frames, which is 1.

    Raises:
        UserError: there is no frame.
    """
    first = next(iter(frames), None)
    if first is None:
        raise UserError("there is no frame to write", str(path))
    kind = PICTURES[path.suffix.lower()]
    note = PngInfo()
    note.add_text("Comment", comment)
    options = {"pnginfo": note} if kind == "png" else {"comment": comment.encode(), "quality": 95}
    with atomic_file(path) as temporary:
        Image.fromarray(first).save(temporary, kind, **options)
    return 1
