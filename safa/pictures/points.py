"""Points on pictures: learned keypoints and the 68 landmarks."""

from __future__ import annotations

import colorsys

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from safa.pictures.canvas import Picture, enlarge, magnification

Colour = tuple[int, int, int]
Points = NDArray[np.floating]  # (N, 2), x and y in pixels of the picture before it is enlarged

GIVEN = (255, 255, 255)
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


def with_keypoints(picture: Picture, points: Points, panel: int) -> Picture:
    """The picture enlarged to ``panel``, with a disc of a colour of its own for every point."""
    canvas, factor = _enlarged(picture, panel)
    draw = ImageDraw.Draw(canvas)
    radius = max(2.0, canvas.width / 56)
    for number, (x, y) in enumerate(_in_panel(points, factor)):
        box = (x - radius, y - radius, x + radius, y + radius)
        draw.ellipse(box, fill=_colour(number, len(points)), outline=(0, 0, 0))
    return np.asarray(canvas)


def with_landmarks(picture: Picture, faces: list[tuple[Points, Colour]], panel: int) -> Picture:
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


def _enlarged(picture: Picture, panel: int) -> tuple[Image.Image, int]:
    return Image.fromarray(enlarge(picture, panel)), magnification(picture.shape[:2], panel)


def _in_panel(points: Points, factor: int) -> Points:
    """Pixel j of a picture covers factor pixels of its enlargement; the centres have to meet."""
    return (points + 0.5) * factor - 0.5


def _colour(number: int, count: int) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(number / count, 0.85, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)
