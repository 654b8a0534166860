"""RGB images for people to look at: from tensors, enlarged, captioned, joined."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

RgbImage = NDArray[np.uint8]  # (H, W, 3) RGB

BACKGROUND = (24, 26, 30)  # behind panels and captions; dark, so that no panel looks darker than it is
TEXT_COLOUR = (226, 228, 232)
SMALLEST_TEXT = 8  # px; text that is still too long is clipped


def from_tensor(image: Tensor) -> RgbImage:
    """Convert an image (3, H, W) in [0, 1] to (H, W, 3) uint8; values outside are clipped."""
    if image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"one image (3, H, W) is needed, not {tuple(image.shape)}")
    levels = (image.detach().float().clamp(0, 1) * 255).round()
    return np.ascontiguousarray(levels.permute(1, 2, 0).cpu().numpy().astype(np.uint8))


def enlarge(image: RgbImage, panel: int) -> RgbImage:
    """Scale up by the smallest whole number that makes the shorter side at least ``panel`` px.

    An image that is large enough is returned as it is.
    """
    factor = magnification(image.shape[:2], panel)
    if factor == 1:
        return image
    height, width = image.shape[:2]
    return resized(image, (height * factor, width * factor))


def resized(image: RgbImage, size: tuple[int, int]) -> RgbImage:
    """Resize an image to (height, width) by bicubic interpolation."""
    height, width = size
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


def magnification(size: tuple[int, ...], panel: int) -> int:
    """Return the whole number that ``enlarge`` scales an image of (height, width) by."""
    return max(1, -(-panel // min(size)))


def side_by_side(images: Sequence[RgbImage], gap: int = 0) -> RgbImage:
    """Join images of one height from left to right, with ``gap`` px between them."""
    return _joined(images, gap, axis=1)


def stacked(images: Sequence[RgbImage], gap: int = 0) -> RgbImage:
    """Join images of one width from top to bottom, with ``gap`` px between them."""
    return _joined(images, gap, axis=0)


@lru_cache(maxsize=128)  # every frame of a video has the same few
def caption(text: str, width: int, height: int) -> RgbImage:
    """Draw a bar of this size in px with the text in its middle; text that is too long is smaller."""
    bar = Image.new("RGB", (width, height), BACKGROUND)
    size = round(height * 0.62)
    while size > SMALLEST_TEXT and ImageFont.load_default(size).getlength(text) > width:
        size -= 1
    font = ImageFont.load_default(max(SMALLEST_TEXT, size))
    ImageDraw.Draw(bar).text((width / 2, height / 2), text, TEXT_COLOUR, font, anchor="mm")
    return np.asarray(bar)


def _joined(images: Sequence[RgbImage], gap: int, axis: int) -> RgbImage:
    if not images:
        raise ValueError("no images to join")
    across = {image.shape[1 - axis] for image in images}
    if len(across) != 1:
        raise ValueError(f"images of different {('widths', 'heights')[axis]}: {sorted(across)}")
    shape = list(images[0].shape)
    shape[axis] = gap
    space = np.broadcast_to(np.array(BACKGROUND, np.uint8), shape)
    parts = [part for image in images for part in (image, space)][:-1]
    return np.concatenate(parts, axis=axis)
