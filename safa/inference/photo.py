"""Photos in, as upright RGB pictures, with a word about everything that had to be changed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from safa.errors import UserError
from safa.pictures.canvas import Picture

PHOTO_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
LARGEST_SIDE = 16384  # px
SMALLEST_SIDE = 16
PAPER = (255, 255, 255)  # behind transparent parts
_SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N", "I")


@dataclass(frozen=True)
class Photo:
    """Attributes: pixels (H, W, 3) uint8 RGB, upright; notes, what was converted, one sentence each."""

    pixels: Picture
    notes: tuple[str, ...] = ()


def read_photo(path: Path) -> Photo:
    """Read a photo: upright by its EXIF tag, without transparency, 8 bits, RGB.

    Raises:
        UserError: not a readable picture, of floating-point values, or too small or large.
    """
    try:
        with Image.open(path) as picture:
            width, height = picture.size
            if max(width, height) > LARGEST_SIDE or min(width, height) < SMALLEST_SIDE:
                raise UserError(
                    f"is {width} x {height} px",
                    str(path),
                    f"Give a photo of {SMALLEST_SIDE} to {LARGEST_SIDE} px a side.",
                )
            picture.load()
            upright = ImageOps.exif_transpose(picture)
    except FileNotFoundError:
        raise UserError("no such photo", str(path), "Check the path.") from None
    except UnidentifiedImageError:
        raise UserError(
            "not a readable photo (of no known format)", str(path), "Give a JPEG or PNG."
        ) from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"not a readable photo ({error})", str(path), "Give a JPEG or PNG.") from None
    rgb, note = _to_rgb(upright, path)
    return Photo(np.asarray(rgb), (f"{path.name} {note}",) if note else ())


def _to_rgb(picture: Image.Image, path: Path) -> tuple[Image.Image, str]:
    """The picture in RGB, and what that took."""
    if picture.mode in _SIXTEEN_BITS:
        values = np.asarray(picture, np.float64)
        grey = Image.fromarray(np.rint(np.clip(values / 257, 0, 255)).astype(np.uint8))
        return grey.convert("RGB"), "has 16 bits a pixel; brought to 8"
    if picture.mode == "F":
        raise UserError("holds floating-point values", str(path), "Save it as an 8-bit JPEG or PNG.")
    if picture.mode == "CMYK":
        return picture.convert("RGB"), "is CMYK; converted to RGB, colours may differ from the print"
    if picture.has_transparency_data:
        pixels = picture.convert("RGBA")
        paper = Image.new("RGBA", pixels.size, (*PAPER, 255))
        note = "has transparent parts; they are drawn white"
        is_opaque = pixels.getchannel("A").getextrema() == (255, 255)
        return Image.alpha_composite(paper, pixels).convert("RGB"), "" if is_opaque else note
    return picture.convert("RGB"), ""
