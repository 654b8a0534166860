"""Maps of numbers as colours: occlusion, flow, normals.

XXX Points on pictures: learned keypoints and the 68 landmarks."""

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

HEAT_COLOURS = "magma"  # black to pale yellow, evenly bright and safe for the colour-blind
HUES = 256


def heat(heat_map: Tensor) -> RgbImage:
    """Colour a map (H, W) in [0, 1] from black (0) over red to pale yellow (1); it clips values outside."""
    if heat_map.ndim != 2:
        raise ValueError(f"one map (H, W) is wanted, not {tuple(heat_map.shape)}")
    levels = (heat_map.detach().float().clamp(0, 1) * 255).round().long().cpu().numpy()
    coloured: RgbImage = _heat_table()[levels]
    return coloured


def flow(deformation: Tensor, full: float = 0.3) -> RgbImage:
    """How far each pixel reads from itself: hue is the direction, saturation the distance, white is at rest.

    Args:
        deformation: (H, W, 2), source positions in normalised coordinates, x then y.
        full: the distance, in the same unit (the image is 2 wide), from which on colours are fully saturated.
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


def normals(directions: Tensor) -> RgbImage:
    """Colour unit normals (3, H, W) in screen axes: each component in [-1, 1] is one colour channel.

    Pixels without a normal are black. What faces the viewer (z towards -1) is drawn bright blue, as is usual.
    """
    x, y, z = directions.unbind(0)  # (3, H, W) -> three of (H, W)
    present = (directions != 0).any(0)
    return from_tensor((torch.stack([x, -y, -z]) + 1) / 2 * present)


@cache
def _heat_table() -> NDArray[np.uint8]:
    # Imported here: the rest of the package does without it.
    from matplotlib import colormaps

    table: NDArray[np.uint8] = colormaps[HEAT_COLOURS](np.arange(256), bytes=True)[:, :3]
    return table


@cache
def _hue_table() -> NDArray[np.float64]:
    return np.array([colorsys.hsv_to_rgb(i / HUES, 1.0, 1.0) for i in range(HUES)])


Colour = tuple[int, int, int]
Points = NDArray[np.floating]  # (N, 2), x and y in pixels of the picture before it is enlarged

TARGET = (255, 255, 255)
ESTIMATED = (64, 224, 160)

# The parts of the 68 iBUG points as lines: first and last point, and whether the line is closed.
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


def with_keypoints(picture: RgbImage, points: Points, panel: int) -> RgbImage:
    """The picture enlarged to ``panel``, with a disc of a colour of its own for every point."""
    canvas, factor = _enlarged(picture, panel)
    draw = ImageDraw.Draw(canvas)
    radius = max(2.0, canvas.width / 56)
    for number, (x, y) in enumerate(_in_panel(points, factor)):
        box = (x - radius, y - radius, x + radius, y + radius)
        draw.ellipse(box, fill=_colour(number, len(points)), outline=(0, 0, 0))
    return np.asarray(canvas)


def with_landmarks(picture: RgbImage, faces: list[tuple[Points, Colour]], panel: int) -> RgbImage:
    """The picture enlarged to ``panel``, with the lines of 68 landmarks (68, 2), one colour per face.

    A face with NaN is left out.
    """
    canvas, factor = _enlarged(picture, panel)
    draw = ImageDraw.Draw(canvas)
    for points, colour in faces:
        if np.isfinite(points).all():
            _draw_face(draw, _in_panel(points, factor), colour, width=max(1, round(canvas.width / 150)))
    return np.asarray(canvas)


def normalised_to_px(points: Points, size: int) -> Points:
    """Corner-aligned coordinates in [-1, 1] to pixel positions 0 .. size - 1."""
    return (points + 1) / 2 * (size - 1)


def _draw_face(draw: ImageDraw.ImageDraw, points: Points, colour: Colour, width: int) -> None:
    for first, last, closed in LINES:
        line = [(float(x), float(y)) for x, y in points[first : last + 1]]
        draw.line([*line, line[0]] if closed else line, fill=colour, width=width)


def _enlarged(picture: RgbImage, panel: int) -> tuple[Image.Image, int]:
    return Image.fromarray(enlarge(picture, panel)), magnification(picture.shape[:2], panel)


def _in_panel(points: Points, factor: int) -> Points:
    """Pixel j of a picture covers factor pixels of its enlargement; the centres have to meet."""
    return (points + 0.5) * factor - 0.5


def _colour(number: int, count: int) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(number / count, 0.85, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)
