"""Neck base, shoulders and what is worn on them: a bust below the head, painted vertex by vertex.

The bust is a stack of rings from the neck down to the chest. Rings down to the neckline are skin; there the
cloth begins, a few millimetres further out, so that the neckline stays crisp whatever the mesh's resolution.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from scipy.interpolate import PchipInterpolator

from safa.synthetic.painted_mesh import (
    Field,
    PaintedMesh,
    Points,
    grid_faces,
    join,
    lumps,
    smoothstep,
    to_linear,
)
from safa.synthetic.people import Colour, Outfit

_COLUMNS = 48
_SKIN_ROWS, _CLOTH_ROWS = 7, 18
_THICKNESS = 0.004  # metres, of the cloth

# Depth of a ring (0 neck, 1 chest) -> half width, half depth, height, centre z, how much lower the front is.
_DEPTH = np.array([0.0, 0.14, 0.26, 0.40, 0.56, 0.72, 1.0])
_HALF_WIDTH = np.array([0.92, 1.03, 1.35, 2.05, 2.85, 3.25, 3.35])  # in the neck's half widths
_HALF_DEPTH = np.array([0.92, 1.03, 1.30, 1.55, 1.75, 1.95, 2.25])  # in the neck's half depths
_HEIGHT = np.array([0.016, 0.004, -0.012, -0.034, -0.066, -0.120, -0.360])  # metres from the neck's base
_CENTRE_Z = np.array([0.0, 0.0, -0.006, -0.012, -0.014, -0.010, 0.004])
_FRONT_DROP = np.array([0.004, 0.012, 0.024, 0.030, 0.034, 0.030, 0.0])

_PROFILE = PchipInterpolator(
    _DEPTH, np.stack([_HALF_WIDTH, _HALF_DEPTH, _HEIGHT, _CENTRE_Z, _FRONT_DROP], axis=1)
)


@dataclass(frozen=True)
class Body:
    """The bare surface of a bust. Angle 0 is the front, 90 degrees the person's left."""

    neck: Points  # (3,) centre of the neck's base, metres
    half_width: float  # of the neck, metres
    half_depth: float
    broad: float  # width of the shoulders, as a factor

    def surface(self, depth: Field, angle: Field) -> Points:
        """Points (..., 3) at depth and angle, both (...)."""
        half_width, half_depth, height, centre_z, drop = np.moveaxis(_PROFILE(depth), -1, 0)
        spread = 1 + (self.broad - 1) * smoothstep(depth, 0.1, 0.6)  # broad shoulders start below the neck
        x = half_width * self.half_width * spread * np.sin(angle)
        z = half_depth * self.half_depth * np.cos(angle) + centre_z
        points: Points = self.neck + np.stack([x, height - drop * np.cos(angle), z], axis=-1)
        return points


def _outward(angle: Field, up: float) -> Points:
    return np.stack([np.sin(angle), np.full_like(angle, up), np.cos(angle)], axis=-1)


def _neckline(style: str, angle: Field) -> Field:
    """Depth at which the cloth begins, by angle."""
    front = np.minimum(angle, 2 * np.pi - angle)
    starts: dict[str, Field] = {
        "turtleneck": np.full_like(angle, 0.02),
        "vneck": 0.20 + 0.42 * np.clip(1 - front / 0.75, 0, 1),
        "collar": 0.12 + 0.22 * np.clip(1 - front / 0.45, 0, 1),
        "crew": 0.20 + 0.10 * np.clip(np.cos(angle), 0, 1) ** 2,
    }
    return starts[style]


def _cloth_colours(outfit: Outfit, points: Points, below_edge: Field, rng: Generator) -> Field:
    colour = np.broadcast_to(outfit.colour, points.shape)
    if outfit.stripes:
        # Along the mesh's own rows: stripes across them would break into steps.
        striped = np.arange(len(points)) // _COLUMNS % (2 * outfit.stripes) < outfit.stripes
        colour = np.where(striped[:, None], outfit.second, colour)
    if outfit.style != "collar":
        colour = colour * (0.75 + 0.25 * smoothstep(below_edge, 0.015, 0.03))[:, None]  # a hem
    shaded: Field = colour * (1 + 0.06 * lumps(points, rng, 0.07))[:, None]
    return shaded


def _mesh(grid: Points, depth: Field, closed: bool, colours: Field, gloss: float) -> PaintedMesh:
    """A lattice (rows, columns, 3) at ``depth`` (rows, columns); colours (rows * columns, 3) sRGB."""
    rows, columns = depth.shape
    faces = grid_faces(rows, columns, closed)
    with_head = 1 - smoothstep(depth.ravel(), 0.02, 0.22)  # the neck twists, the shoulders don't
    return PaintedMesh(grid.reshape(-1, 3), faces, to_linear(colours), np.full(depth.size, gloss), with_head)


def _collar(outfit: Outfit, body: Body) -> PaintedMesh:
    """A folded shirt collar: a band that stands around the neck and falls outward, open in front."""
    fold = np.array([0.0, 0.35, 0.5, 0.75, 1.0])  # from the neck up, over, and down
    away = np.array([0.004, 0.007, 0.012, 0.018, 0.020])
    shade = np.array([0.7, 0.9, 1.05, 1.0, 0.92])
    depth, angle = np.meshgrid(
        np.array([0.16, 0.06, 0.05, 0.14, 0.25]), np.linspace(0.30, 2 * np.pi - 0.30, _COLUMNS), indexing="ij"
    )
    points_down = np.exp(-(np.minimum(angle, 2 * np.pi - angle) - 0.3) / 0.25)  # the two tips
    depth = depth + 0.10 * points_down * fold[:, None] ** 3
    grid = body.surface(depth, angle) + _outward(angle, 0.3) * away[:, None, None]
    return _mesh(grid, depth, False, outfit.colour * shade.repeat(_COLUMNS)[:, None], 0.0)


def _skin(skin: Colour, body: Body, angle: Field, start: Field) -> PaintedMesh:
    depth = np.linspace(0, 1, _SKIN_ROWS)[:, None] * (start + 0.03)  # ends a little under the cloth
    shadow = 1 - 0.06 * np.exp(
        -depth.reshape(-1, 1) / 0.3
    )  # of the chin; continues that on the head's own neck
    grid = body.surface(depth, np.broadcast_to(angle, depth.shape))
    return _mesh(grid, depth, True, skin * shadow, 0.05)


def _cloth(outfit: Outfit, body: Body, angle: Field, start: Field, rng: Generator) -> PaintedMesh:
    share = np.concatenate([[0.0], np.linspace(0, 1, _CLOTH_ROWS - 1) ** 1.4])[:, None]
    depth = start + share * (1 - start)
    around = np.broadcast_to(angle, depth.shape)
    bare = body.surface(depth, around)
    lift = np.full(depth.shape, _THICKNESS)
    lift[0] = 0.0  # the edge is folded down to the skin
    lift = lift + 0.003 * share * lumps(bare.reshape(-1, 3), rng, 0.11).reshape(depth.shape)  # creases
    grid = bare + _outward(around, 0.6) * lift[..., None]
    colours = _cloth_colours(outfit, grid.reshape(-1, 3), (depth - start).ravel(), rng)
    return _mesh(grid, depth, True, colours, 0.03)


def build_bust(
    outfit: Outfit, skin: Colour, neck: Points, neck_size: tuple[float, float], rng: Generator
) -> PaintedMesh:
    """The bust of one video, at rest.

    Args:
        skin: sRGB of the neck.
        neck: (3,) centre of the neck's base, metres.
        neck_size: half width and half depth of the neck at its base, metres.
    """
    half_width, half_depth = neck_size
    body = Body(neck, half_width, half_depth, outfit.shoulder_width / (2 * _HALF_WIDTH[-1] * half_width))
    angle = np.linspace(0, 2 * np.pi, _COLUMNS, endpoint=False)
    start = _neckline(outfit.style, angle)
    parts = [_skin(skin, body, angle, start), _cloth(outfit, body, angle, start, rng)]
    if outfit.style == "collar":
        parts.append(_collar(outfit, body))
    return join(parts)
