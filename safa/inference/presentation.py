"""Presentation of results: enlarged, and beside their source and driving frame."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
from PIL import Image

from safa.inference.video_output import RenderedFrame
from safa.visualize.images import RgbImage, side_by_side

GAP = 4  # px between panels


def enlarged(image: RgbImage, height: int) -> RgbImage:
    """Resize an image (H, W, 3) to a height by Lanczos's filter; the width follows."""
    if image.shape[0] == height:
        return image
    width = max(1, round(image.shape[1] * height / image.shape[0]))
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))


def presented(
    frames: Iterator[RenderedFrame], source: RgbImage | None, size: int | None
) -> Iterator[RenderedFrame]:
    """Enlarge results to ``size`` px, and put source, driving frame and result side by side.

    Args:
        source: (H, W, 3), what stands at the left; None for the result alone.
        size: px, height of the results; None keeps theirs.
    """
    for frame in frames:
        image = frame.image if size is None else enlarged(frame.image, size)
        if source is not None:
            panels = (enlarged(panel, image.shape[0]) for panel in (source, frame.driving))
            image = side_by_side([*panels, image], GAP)
        yield dataclasses.replace(frame, image=image)
