"""Pictures: from tensors, enlarged, labelled, put side by side."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

RgbImage = NDArray[np.uint8]  # (H, W, 3) RGB

PAPER = (24, 26, 30)  # behind panels and captions; dark, so that no panel looks darker than it is
INK = (226, 228, 232)


def from_tensor(image: Tensor) -> RgbImage:
    """Image (3, H, W) in [0, 1] to a picture; values outside are clipped."""
    if image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"one image (3, H, W) is wanted, not {tuple(image.shape)}")
    levels = (image.detach().float().clamp(0, 1) * 255).round()
    return np.ascontiguousarray(levels.permute(1, 2, 0).cpu().numpy().astype(np.uint8))


def enlarge(picture: RgbImage, panel: int) -> RgbImage:
    """Scale up by the smallest whole number that makes the shorter side at least ``panel`` px.

    A picture that is large enough comes back as it is.
    """
    factor = magnification(picture.shape[:2], panel)
    if factor == 1:
        return picture
    height, width = picture.shape[:2]
    return resized(picture, (height * factor, width * factor))


def resized(picture: RgbImage, size: tuple[int, int]) -> RgbImage:
    """The picture at (height, width), smooth."""
    height, width = size
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC))


def magnification(size: tuple[int, ...], panel: int) -> int:
    """The whole number that ``enlarge`` scales a picture of (height, width) by."""
    return max(1, -(-panel // min(size)))


def side_by_side(pictures: Sequence[RgbImage], gap: int = 0) -> RgbImage:
    """Pictures of one height from left to right, ``gap`` px between them."""
    return _joined(pictures, gap, axis=1)


def stacked(pictures: Sequence[RgbImage], gap: int = 0) -> RgbImage:
    """Pictures of one width from top to bottom, ``gap`` px between them."""
    return _joined(pictures, gap, axis=0)


@lru_cache(maxsize=128)  # every frame of a video has the same few
def caption(text: str, width: int, height: int) -> RgbImage:
    """A bar of this size with the text in its middle; text that is too long is cut off."""
    bar = Image.new("RGB", (width, height), PAPER)
    font = ImageFont.load_default(size=max(8, round(height * 0.62)))
    ImageDraw.Draw(bar).text((width / 2, height / 2), text, INK, font, anchor="mm")
    return np.asarray(bar)


def _joined(pictures: Sequence[RgbImage], gap: int, axis: int) -> RgbImage:
    if not pictures:
        raise ValueError("no pictures to join")
    across = {picture.shape[1 - axis] for picture in pictures}
    if len(across) != 1:
        raise ValueError(f"pictures of different {('widths', 'heights')[axis]}: {sorted(across)}")
    shape = list(pictures[0].shape)
    shape[axis] = gap
    space = np.broadcast_to(np.array(PAPER, np.uint8), shape)
    parts = [part for picture in pictures for part in (picture, space)][:-1]
    return np.concatenate(parts, axis=axis)
