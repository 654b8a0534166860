"""Crop boxes in a source frame, and the coordinates of its points in the crop."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_SIDE = r"([0-9]{1,9}(?:\.[0-9]{0,9})?)"
_BOX = re.compile(rf"{_SIDE}-{_SIDE}-{_SIDE}-{_SIDE}")


@dataclass(frozen=True)
class Box:
    """A box in whole pixels of a frame; ``right`` and ``bottom`` are exclusive."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        return self.right - self.left

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @classmethod
    def parse(cls, text: str) -> Box:
        """Parse ``left-top-right-bottom``, as VoxCeleb's metadata has it.

        Raises:
            ValueError: not four numbers, or an empty box.
        """
        match = _BOX.fullmatch(text)
        if match is None:
            raise ValueError(f"box {text[:60]!r} is not left-top-right-bottom")
        box = cls(*(round(float(part)) for part in match.groups()))
        if box.width < 1 or box.height < 1:
            raise ValueError(f"box {text!r} is empty")
        return box

    def scaled(self, factor_x: float, factor_y: float) -> Box:
        """The same box in a frame of another resolution, to the nearest pixel."""
        left, right = round(self.left * factor_x), round(self.right * factor_x)
        top, bottom = round(self.top * factor_y), round(self.bottom * factor_y)
        return Box(left, top, max(right, left + 1), max(bottom, top + 1))

    def clipped(self, width: int, height: int) -> Box | None:
        """The part of the box inside a frame; None if there is none."""
        box = Box(max(self.left, 0), max(self.top, 0), min(self.right, width), min(self.bottom, height))
        return box if box.width > 0 and box.height > 0 else None


def points_in_crop(points: NDArray[np.float32], box: Box, size: int) -> NDArray[np.float32]:
    """Convert points of the source frame to pixels of the crop that is scaled to ``size`` x ``size``.

    Points are continuous: 0 is the frame's left edge and pixel j spans j to j + 1, as face-alignment gives
    them and as the head's camera projects. So cropping only shifts them, and scaling only multiplies them.

    Args:
        points: (..., 2), (x, y) in pixels of the source frame; NaN stays NaN.
    """
    scale = np.array([size / box.width, size / box.height], dtype=np.float32)
    return (points - np.array([box.left, box.top], dtype=np.float32)) * scale
