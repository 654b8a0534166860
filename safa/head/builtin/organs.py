"""Eyeballs, ears and teeth: small meshes beside the skin."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import PchipInterpolator

from safa.head.builtin.surface import EYE, EYE_RADIUS, MM, Array
from safa.head.builtin.topology import Ints, fan_faces, ring_faces, strip_faces


@dataclass(frozen=True)
class Patch:
    """One mesh with its own island on the texture.

    Attributes:
        vertices: (N, 3), metres.
        faces: (M, 3) of its own vertex numbers, counter-clockwise seen from outside.
        uv: (N, 2) in [0, 1], place on the island.
        level: (N,) a coordinate for painting: angle from the pupil on an eyeball, 0 elsewhere.
    """

    vertices: Array
    faces: Ints
    uv: Array
    level: Array


_EYE_SEGMENTS = 16
# Degrees from the pupil's middle. Pairs that lie close together are edges of colour; no closer, because the
# rasteriser's rule for weights (area + 1e-8) pulls very small faces towards the viewer.
PUPIL_EDGE, IRIS_EDGE = (8.5, 12.0), (26.0, 30.0)
_EYE_RINGS = [*PUPIL_EDGE, *IRIS_EDGE, 40.0, 54.0, 74.0, 100.0, 140.0]


def eyeball(side: float) -> Patch:
    """The eyeball of one side (+1 left), pole towards +z, open at the back."""
    polar = np.deg2rad(_EYE_RINGS)[:, None]  # (R, 1)
    round_ = np.arange(_EYE_SEGMENTS) * 2 * np.pi / _EYE_SEGMENTS
    radius = EYE_RADIUS * (1 + 0.015 * np.exp(-((polar / np.deg2rad(22)) ** 2)))  # the cornea bulges
    direction = np.stack(  # three of (R, N) -> (R, N, 3)
        np.broadcast_arrays(np.sin(polar) * np.cos(round_), np.sin(polar) * np.sin(round_), np.cos(polar)), -1
    )
    rings = (radius[..., None] * direction).reshape(-1, 3)  # (R, 1, 1) * (R, N, 3) -> (R*N, 3)
    front = [[0, 0, EYE_RADIUS * 1.015]]
    centre = EYE * [side, 1, 1]
    vertices = (np.concatenate([rings, front]) + centre) * MM  # (R*N + 1, 3)
    numbers = np.arange(len(rings)).reshape(len(_EYE_RINGS), -1)  # (R, N)
    faces = [ring_faces(numbers[::-1]), fan_faces(numbers[0], len(rings))]
    level = np.concatenate([np.repeat(_EYE_RINGS, _EYE_SEGMENTS), [0]])  # (R*N + 1,)
    spread = np.concatenate([np.repeat(polar / polar.max(), _EYE_SEGMENTS), [0.0]])  # (R*N + 1,)
    angle = np.concatenate([np.tile(round_, len(_EYE_RINGS)), [0.0]])  # (R*N + 1,)
    uv = 0.5 + 0.5 * np.stack([spread * np.cos(angle), spread * np.sin(angle)], axis=1)  # (R*N + 1, 2)
    return Patch(vertices, np.concatenate(faces), uv, level)  # (F, 3) faces


_EAR_SEGMENTS = 26
# Share of the outline, height over the ear's plane (mm): from the bowl over the rim to the back.
_EAR_FRONT = [
    (0.16, -4.5),
    (0.34, -4.0),
    (0.46, 0.0),
    (0.56, 1.8),
    (0.68, 0.6),
    (0.8, 0.6),
    (0.88, 3.0),
    (0.96, 3.4),
]
_EAR_BACK = [(1.0, 1.5), (0.96, -1.0), (0.84, -3.5), (0.62, -9.0), (0.5, -17.0)]
# Radius of the outline by angle from straight back (0) over the top (90), the front (180) to the lobe (270).
_EAR_OUTLINE = PchipInterpolator(
    [0, 30, 60, 90, 120, 150, 180, 210, 240, 262, 285, 310, 335, 360],
    [18, 22.5, 28, 31, 25, 15, 11, 12, 20, 27, 28, 21, 17.5, 18],
)


def ear(side: float) -> Patch:
    """The ear of one side (+1 left): a shell whose front edge and back end inside the head."""
    angle = np.arange(_EAR_SEGMENTS) * 2 * np.pi / _EAR_SEGMENTS
    outline = _EAR_OUTLINE(np.rad2deg(angle))
    share, height = np.array(_EAR_FRONT + _EAR_BACK).T  # (R, 2) -> two of (R,)
    # The front of the rim runs into the head: there is no helix there, and no bowl edge.
    openness = np.clip((1 + np.cos(angle)) / 2, 0, 1) ** 0.5
    lobe = np.exp(-0.5 * ((np.rad2deg(angle) - 270) / 28) ** 2)
    relief = height[:, None] * np.where(height[:, None] > 0, 1 - 0.6 * lobe, 1.0)  # (R, 1) * (N,) -> (R, N)
    backwards = share[:, None] * outline * np.cos(angle)  # (R, N)
    up = share[:, None] * outline * np.sin(angle)  # (R, N)
    relief = relief * (0.35 + 0.65 * openness)
    local = np.stack([backwards, up, relief], axis=-1).reshape(-1, 3)  # three of (R, N) -> (R*N, 3)
    local = np.concatenate([local, [[-1.5, -2.0, -6.0]]])  # (R*N + 1, 3)
    vertices = _place_ear(local)
    vertices[:, 0] *= side
    numbers = np.arange(len(local) - 1).reshape(len(share), -1)  # (R, N)
    # (F, 3)
    faces = np.concatenate([ring_faces(numbers[::-1]), fan_faces(numbers[0], len(local) - 1)])
    if side < 0:
        faces = faces[:, ::-1]
    spread = np.concatenate([np.repeat(np.linspace(0.12, 1, len(share)), _EAR_SEGMENTS), [0.0]])  # (R*N + 1,)
    turn = np.concatenate([np.tile(angle, len(share)), [0.0]])  # (R*N + 1,)
    uv = 0.5 + 0.5 * np.stack([side * spread * np.cos(turn), spread * np.sin(turn)], axis=1)  # (R*N + 1, 2)
    return Patch(vertices * MM, faces, uv, np.zeros(len(local)))


def _place_ear(local: Array) -> Array:
    """Ear coordinates (backwards, up, off the plane) to the left side of the head, mm."""
    flare, lean = np.deg2rad(28), np.deg2rad(12)
    back, up, off = local.T  # (N, 3) -> three of (N,)
    back, up = back * np.cos(lean) + up * np.sin(lean), up * np.cos(lean) - back * np.sin(lean)
    x = 72.0 + back * np.sin(flare) + off * np.cos(flare)
    z = -24.0 - back * np.cos(flare) + off * np.sin(flare)
    return np.stack([x, 4.0 + up, z], axis=1)  # (N, 3)


_TEETH_COLUMNS = 17


def teeth(upper: bool) -> Patch:
    """A row of teeth, seen from the front only."""
    across = np.linspace(-1, 1, _TEETH_COLUMNS)
    x = 23.0 * np.sin(across * 1.35) / np.sin(1.35)
    z = 64.0 - 26.0 * (1 - np.cos(across * 1.35)) - (0.0 if upper else 1.5)
    gum, edge = (-40.0, -49.5) if upper else (-60.0, -51.0)
    heights = [gum, (gum + edge) / 2, edge, edge]
    depths = [-1.5, 0.0, -0.3, -4.0]
    if not upper:
        heights, depths = heights[::-1], depths[::-1]
    rows = [  # four of (N, 3)
        np.stack([x, np.full_like(x, y), z + back], axis=1) for y, back in zip(heights, depths, strict=True)
    ]
    numbers = np.arange(4 * _TEETH_COLUMNS).reshape(4, -1)  # (4, N)
    u, v = np.meshgrid(np.linspace(0, 1, _TEETH_COLUMNS), np.linspace(1, 0, 4))
    uv = np.stack([u.ravel(), v.ravel()], axis=1)  # (4*N, 2)
    return Patch(np.concatenate(rows) * MM, strip_faces(numbers), uv, np.zeros(len(uv)))  # (4*N, 3)
