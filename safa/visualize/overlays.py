"""Overlays and colour maps: points drawn on images; occlusion, flow and normals as colours."""

from __future__ import annotations

import colorsys
import math
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from safa.geometry.grids import identity_grid
from safa.visualize.images import RgbImage, enlarge, from_tensor, magnification

Colour = tuple[int, int, int]
Points = NDArray[np.floating]  # (N, 2), x and y in px of the image before it is enlarged

TARGET: Colour = (255, 255, 255)  # landmarks that came with the data
ESTIMATED: Colour = (64, 224, 160)  # landmarks of the 3DMM

# The 68 iBUG points as lines: first and last point, and whether the line is closed.
LINES = (
    (0, 16, False),  # jaw
    (17, 21, False),
    (22, 26, False),  # brows
    (27, 30, False),
    (31, 35, False),  # nose
    (36, 41, True),
    (42, 47, True),  # eyes
    (48, 59, True),
    (60, 67, True),  # lips
)

HEAT_COLOURS = "magma"  # black to pale yellow, perceptually even and safe for the colour-blind
HUES = 256  # steps of the colour circle


# ---- maps --------------------------------------------------------------------------------------------------


def heat(values: Tensor) -> RgbImage:
    """Colour a map (H, W) in [0, 1] from black (0) over red to pale yellow (1), clipping others."""
    if values.ndim != 2:
        raise ValueError(f"one map (H, W) is needed, not {tuple(values.shape)}")
    levels = (values.detach().float().clamp(0, 1) * 255).round().long().cpu().numpy()
    coloured: RgbImage = _heat_table()[levels]
    return coloured


def flow(deformation: Tensor, full: float = 0.3) -> RgbImage:
    """Colour how far each pixel moves: hue is the direction, saturation the distance, white is at rest.

    Args:
        deformation: (H, W, 2), source positions x and y in normalised coordinates.
        full: the distance in these coordinates (the image is 2 wide) at which colours are fully saturated.
    """
    height, width = deformation.shape[:2]
    grid = identity_grid(height, width, dtype=torch.float32, device=torch.device("cpu"))
    shift = (deformation.detach().float().cpu() - grid).numpy()
    turn = np.arctan2(shift[..., 1], shift[..., 0]) / (2 * math.pi) % 1.0
    hue = _hue_table()[np.minimum((turn * HUES).astype(int), HUES - 1)]
    saturation = np.clip(np.hypot(shift[..., 0], shift[..., 1]) / full, 0, 1)[..., None]
    colours = 1 + saturation * (hue - 1)  # from white to the hue
    coloured: RgbImage = np.rint(colours * 255).astype(np.uint8)
    return coloured


def normals(normal_map: Tensor) -> RgbImage:
    """Colour unit normals (3, H, W) in screen axes: each component is a channel; black where there is none.

    What faces the viewer (z towards -1) is bright blue, as is usual.
    """
    x, y, z = normal_map.unbind(0)
    present = (normal_map != 0).any(0)
    return from_tensor((torch.stack([x, -y, -z]) + 1) / 2 * present)


# ---- points ------------------------------------------------------------------------------------------------


def with_keypoints(image: RgbImage, points: Points, panel: int) -> RgbImage:
    """Enlarge an image to ``panel`` px and draw every point as a disc of its own colour."""
    canvas, factor = _enlarged(image, panel)
    draw = ImageDraw.Draw(canvas)
    radius = max(2.0, canvas.width / 56)
    for number, (x, y) in enumerate(_in_panel(points, factor)):
        box = (x - radius, y - radius, x + radius, y + radius)
        draw.ellipse(box, fill=_colour(number, len(points)), outline=(0, 0, 0))
    return np.asarray(canvas)


def with_landmarks(image: RgbImage, faces: list[tuple[Points, Colour]], panel: int) -> RgbImage:
    """Enlarge an image to ``panel`` px and draw the lines of landmarks (68, 2), one colour per face.

    Faces with NaN are left out.
    """
    canvas, factor = _enlarged(image, panel)
    draw = ImageDraw.Draw(canvas)
    for points, colour in faces:
        if np.isfinite(points).all():
            _draw_face(draw, _in_panel(points, factor), colour, width=max(1, round(canvas.width / 150)))
    return np.asarray(canvas)


def normalised_to_px(points: Points, size: int) -> Points:
    """Convert corner-aligned coordinates in [-1, 1] to pixel positions 0 .. size - 1."""
    return (points + 1) / 2 * (size - 1)


def _draw_face(draw: ImageDraw.ImageDraw, points: Points, colour: Colour, width: int) -> None:
    for first, last, closed in LINES:
        line = [(float(x), float(y)) for x, y in points[first : last + 1]]
        draw.line([*line, line[0]] if closed else line, fill=colour, width=width)


def _enlarged(image: RgbImage, panel: int) -> tuple[Image.Image, int]:
    return Image.fromarray(enlarge(image, panel)), magnification(image.shape[:2], panel)


def _in_panel(points: Points, factor: int) -> Points:
    """Pixel j of an image covers ``factor`` pixels of its enlargement; the centres have to coincide."""
    return (points + 0.5) * factor - 0.5


# ---- colours -----------------------------------------------------------------------------------------------


@cache
def _heat_table() -> NDArray[np.uint8]:
    # Imported here, since it takes long and nothing else needs it.
    from matplotlib import colormaps

    table: NDArray[np.uint8] = colormaps[HEAT_COLOURS](np.arange(256), bytes=True)[:, :3]
    return table


@cache
def _hue_table() -> NDArray[np.float64]:
    return np.array([colorsys.hsv_to_rgb(i / HUES, 1.0, 1.0) for i in range(HUES)])


def _colour(number: int, count: int) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(number / count, 0.85, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)
