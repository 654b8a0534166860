"""Photos as phones, cameras, scanners and editors write them, as upright 8-bit sRGB."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from safa.errors import UserError
from safa.image_files import is_animated, open_image
from safa.reading import reason_of
from safa.visualize.images import RgbImage

SMALLEST_SIDE = 16  # px
STRIP_PIXELS = 2**22  # of a picture, that are converted at once
BACKGROUND = (255, 255, 255)  # behind transparent parts
_SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N", "I")  # modes of Pillow
_SRGB = "sRGB"  # in the description of a profile: nothing to convert
SWAPPED = "Give a photo; did you swap photo and video?"


@dataclass(frozen=True)
class Photo:
    """A decoded photo.

    Attributes:
        pixels: (H, W, 3) uint8 RGB, upright.
        notes: what was converted, one sentence each.
    """

    pixels: RgbImage
    notes: tuple[str, ...] = ()


def read_photo(path: Path) -> Photo:
    """Read a photo as 8-bit sRGB, turned upright by its EXIF tag, transparent parts white.

    Raises:
        UserError: the file is not a readable image, moves, holds floating-point values, or is too small or
            large.
    """
    if not path.exists():
        raise UserError("no such photo", str(path), "Check the path.")
    try:
        with open_image(path, str(path)) as image:
            if min(image.size) < SMALLEST_SIDE:
                fix = f"Give a photo of at least {SMALLEST_SIDE} px a side."
                raise UserError(f"is {image.width} x {image.height} px", str(path), fix)
            if is_animated(image):
                raise UserError("is a moving picture", str(path), SWAPPED)
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            pixels, notes = to_pixels(image, str(path))
    except UnidentifiedImageError:
        fix = SWAPPED if _is_video(path) else "Give a JPEG, PNG, WebP, HEIC, AVIF or TIFF."
        raise UserError("not a readable photo (unknown format)", str(path), fix) from None
    except UserError:
        raise
    except MemoryError:
        fix = "Give one with fewer pixels."
        raise UserError("needs more memory than there is", str(path), fix) from None
    except Exception as error:  # whatever a parser raises about a damaged file
        reason = f"not a readable photo ({reason_of(error)})"
        raise UserError(reason, str(path), "Open it in another program and save it as JPEG or PNG.") from None
    return Photo(pixels, tuple(f"{path.name} {note}" for note in notes))


def _is_video(path: Path) -> bool:
    from safa.data.video import DecodeError, probe

    try:
        probe(path)
    except DecodeError:
        return False
    return True


def to_pixels(image: Image.Image, name: str) -> tuple[RgbImage, tuple[str, ...]]:
    """Convert an image to (H, W, 3) uint8 in sRGB; also return notes of what was lost or could not be done.

    A picture of many megapixels is converted in strips, so that it is in memory twice at most.

    Raises:
        UserError: it holds floating-point values.
    """
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    notes: dict[str, None] = {}
    rows = max(1, STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        strip = image if rows >= image.height else image.crop((0, top, image.width, bottom))
        rgb, found = _to_rgb(strip, name)
        pixels[top:bottom] = np.asarray(rgb)
        notes |= dict.fromkeys(found)
    return pixels, tuple(notes)


def _to_rgb(image: Image.Image, name: str) -> tuple[Image.Image, tuple[str, ...]]:
    if image.mode in _SIXTEEN_BITS:
        values = np.clip(np.asarray(image), 0, 2**16 - 1)
        grey = Image.fromarray(np.rint(values / np.float32(257)).astype(np.uint8))
        return grey.convert("RGB"), ("has 16 bits per channel; reduced to 8",)
    if image.mode == "F":
        raise UserError("holds floating-point values", name, "Save it as an 8-bit JPEG or PNG.")
    profile = image.info.get("icc_profile")
    if image.mode == "CMYK" and not profile:
        return image.convert("RGB"), ("is CMYK; converted to RGB, colours may differ from the print",)
    alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
    if image.mode in ("P", "PA", "LA", "RGBA", "1", "RGBX", "La", "RGBa"):
        image = image.convert("RGB")
    rgb, notes = _to_srgb(image, profile) if profile else (_wide_gamut(image), ())
    if alpha is None or alpha.getextrema() == (255, 255):
        return rgb, notes
    background = Image.new("RGB", rgb.size, BACKGROUND)
    drawn = Image.composite(rgb, background, alpha)
    return drawn, (*notes, "has transparent parts; they are drawn white")


def _to_srgb(image: Image.Image, data: bytes) -> tuple[Image.Image, tuple[str, ...]]:
    """Convert by the ICC profile that the file carries: Display P3, Adobe RGB, ProPhoto, a print's."""
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
        if image.mode == "RGB" and _SRGB in ImageCms.getProfileDescription(profile):
            return image, ()
        converted = ImageCms.profileToProfile(
            image,
            profile,
            ImageCms.createProfile("sRGB"),
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            outputMode="RGB",
        )
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image.convert("RGB"), ("has a colour profile that cannot be used; colours may differ",)
    assert converted is not None
    return converted, ()


def _wide_gamut(image: Image.Image) -> Image.Image:
    """Convert what a HEIC says of its colours without an ICC profile: BT.2020 or P3, HLG or PQ."""
    from safa.colour_tables import BT2020, HLG, P3, PQ, to_bt709

    colours: dict[str, Any] = image.info.get("nclx_profile") or {}
    transfer = int(colours.get("transfer_characteristics", 0))
    primaries = int(colours.get("color_primaries", 0))
    if transfer not in (HLG, PQ) and primaries not in (BT2020, P3):
        return image.convert("RGB")
    pixels = np.asarray(image.convert("RGB"))
    table = np.empty_like(pixels)
    for number, row in enumerate(pixels):  # a row of doubles, not 200 megapixels of them
        table[number] = np.rint(255 * to_bt709(row / 255, transfer, primaries))
    return Image.fromarray(table)
