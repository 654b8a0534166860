"""Output of inference as GIFs and single pictures, marked as synthetic like the videos."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from safa.data.video import Frame
from safa.errors import UserError
from safa.files import atomic_file

PICTURES = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg"}


def write_gif(path: Path, frames: Iterable[Frame], fps: float, comment: str) -> int:
    """Write an endless GIF atomically, each frame with its own 256 colours. Returns the number of frames.

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
            duration=1000 / fps,
            loop=0,
            comment=comment.encode(),
        )
    return len(images)


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
