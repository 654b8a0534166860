"""Pictures from anyone: named formats alone, and no more pixels than ``safa.limits`` allows.

Without a list of formats Pillow tries all that it knows, among them EPS, for which it runs another program.
Its own guard against decompression bombs stops photos of 90 megapixels and warns; here the bound is
``pixels``, checked before a pixel is decoded, and raised like all others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from PIL import Image

from safa.files import check_regular
from safa.limits import check_limit

Image.MAX_IMAGE_PIXELS = None  # the bound below takes its place

PHOTO_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "PPM")
FRAME_FORMATS = ("JPEG", "PNG", "WEBP")  # of data sets, and of folders of frames
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


@contextmanager
def open_image(
    file: Path | IO[bytes], where: str, formats: Sequence[str] = PHOTO_FORMATS
) -> Iterator[Image.Image]:
    """Open a picture; its pixels are not decoded yet.

    Args:
        where: the file, for the error.
        formats: Pillow's names of those that are allowed. HEIC goes with ``PHOTO_FORMATS``.

    Raises:
        UserError: it is no regular file, or has too many pixels.
        OSError, ValueError, SyntaxError: as Pillow raises them: the file is damaged or of another format.
    """
    if isinstance(file, Path):
        check_regular(file)
        check_limit("photo_bytes", file.stat().st_size, where)
        if formats is PHOTO_FORMATS and _is_heif(file):
            from pillow_heif import register_heif_opener  # takes 0.1 s, and few photos need it

            register_heif_opener(thumbnails=False)
            formats = ("HEIF",)
    with Image.open(file, formats=list(formats)) as image:
        check_limit("pixels", image.width * image.height, where)
        yield image


def _is_heif(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(12)
    return head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS


def is_animated(image: Image.Image) -> bool:
    """Whether a picture moves; those of a camera's MPO, or of a TIFF, are not one after the other."""
    # Not ``n_frames``: of a GIF that is found by going through all of it.
    return image.format in ("GIF", "WEBP", "PNG", "AVIF") and bool(getattr(image, "is_animated", False))
