"""Hair as meshes over the scalp: a shell that stands off the skin, a curtain for long hair, a bun.

The shell is a copy of the scalp moved outwards. Towards its rim it sinks under the skin, so that the hairline
is where the two surfaces cross and no edge is ever seen from the side. All of it turns with the head.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray

from safa.head.render import vertex_normals
from safa.synthetic.painted_mesh import (
    Faces,
    Field,
    PaintedMesh,
    Points,
    grid_faces,
    join,
    lumps,
    smoothstep,
    to_linear,
)
from safa.synthetic.people import Hair

_SINK = 0.005  # metres under the skin, at the rim
_GLOSS = 0.13


@dataclass(frozen=True)
class Skull:
    """Measures of one person's unposed head, metres."""

    centre: Points  # (3,), inside the skull, between the ears
    brow_y: float
    hairline_y: float
    ear_y: float
    height: float  # chin to crown
    radius: NDArray[np.float64]  # (36,), horizontal, by angle from the front, at the ears' height

    @classmethod
    def of(cls, vertices: Points, landmarks: Points, scalp: Field) -> Skull:
        """From all vertices (V, 3), the 68 landmarks and the scalp's soft mask (V,)."""
        hair = vertices[scalp > 0.5]
        brow_y, chin_y, crown = landmarks[17:27, 1].mean(), landmarks[8, 1], hair[:, 1].max()
        ear_y = landmarks[[0, 16], 1].mean()
        centre = np.array([0.0, (crown + ear_y) / 2, (hair[:, 2].min() + landmarks[27, 2]) / 2])
        front = hair[np.abs(hair[:, 0]) < 0.02]
        hairline_y = float(front[front[:, 2] > centre[2], 1].min())
        return cls(
            centre,
            float(brow_y),
            hairline_y,
            float(ear_y),
            float(crown - chin_y),
            _radii(vertices, centre, ear_y),
        )

    def radius_at(self, angle: NDArray[np.float64]) -> NDArray[np.float64]:
        """Interpolated radius at any angles (radians)."""
        knots = np.arange(len(self.radius) + 1) * (2 * np.pi / len(self.radius))
        radius: Field = np.interp(angle % (2 * np.pi), knots, np.append(self.radius, self.radius[0]))
        return radius


def _radii(vertices: Points, centre: Points, ear_y: float, sectors: int = 36) -> NDArray[np.float64]:
    band = vertices[(vertices[:, 1] > ear_y) & (vertices[:, 1] < centre[1] + 0.03)] - centre
    sector = np.round(np.arctan2(band[:, 0], band[:, 2]) / (2 * np.pi / sectors)).astype(int) % sectors
    radius = np.full(sectors, np.nan)
    for index in range(sectors):
        if (inside := band[sector == index]).size:
            radius[index] = np.hypot(inside[:, 0], inside[:, 2]).max()
    known = np.flatnonzero(np.isfinite(radius))
    whole: Field = np.interp(np.arange(sectors), known, radius[known], period=sectors)
    return whole


def coverage(hair: Hair, vertices: Points, scalp: Field, skull: Skull) -> Field:
    """How much hair grows at each vertex, (V,) in [0, 1]: scalp, temples and fringe, minus what recedes."""
    x, y, z = (vertices - skull.centre).T
    side = np.abs(x)
    hairline = skull.hairline_y - skull.centre[1]
    in_front = smoothstep(z, 0.0, 0.05)
    rounded = hairline + 0.004 - hair.rounding * np.clip(side - 0.01, 0, None) ** 2
    cover = np.maximum(scalp, smoothstep(y - rounded, -0.003, 0.006) * smoothstep(z, -0.01, 0.02))
    corners = np.exp(-(((side - 0.040) / 0.018) ** 2)) + 0.5 * np.exp(-((x / 0.03) ** 2))
    reach = hairline + 0.035 * hair.receding
    bare = hair.receding * in_front * np.clip(corners, 0, 1) * (1 - smoothstep(y, reach, reach + 0.02))
    cover = np.clip(cover - 1.2 * bare, 0, 1)
    if hair.fringe > 0:
        brow = skull.brow_y - skull.centre[1] + 0.006
        edge = hairline + (brow - hairline) * hair.fringe - 0.35 * hair.sweep * x
        fringe = smoothstep(y - np.maximum(edge, brow), -0.004, 0.008) * smoothstep(z, 0.02, 0.06)
        cover = np.maximum(cover, fringe)
    return np.asarray(cover)


def _thickness(hair: Hair, vertices: Points, skull: Skull, rng: Generator) -> Field:
    away = vertices - skull.centre
    direction = away / np.linalg.norm(away, axis=1, keepdims=True)
    up = smoothstep(direction[:, 1], 0.15, 0.75)
    behind = smoothstep(-direction[:, 2], 0.0, 0.7) * (1 - up)
    thickness: Field = hair.top * up + hair.back * behind + hair.sides * (1 - up - behind)
    part = np.exp(-(((away[:, 0] - 0.045 * hair.parting) / 0.007) ** 2))
    ahead = smoothstep(direction[:, 2], -0.2, 0.3)
    thickness = thickness * (1 - 0.45 * part * ahead * (1 - hair.curl) * up)
    bumps = lumps(vertices, rng, 0.055) * 0.10 + lumps(vertices, rng, 0.020) * 0.16 * hair.curl
    return thickness * np.clip(1 + bumps, 0.3, 2.0)


def _strands(hair: Hair, points: Points, skull: Skull, rng: Generator) -> NDArray[np.float64]:
    """Linear colours: strands run away from the crown, so shades change with the angle around it."""
    away = points - skull.centre
    angle = np.arctan2(away[:, 0] - 0.02 * hair.parting, away[:, 2])
    around = np.stack([np.cos(angle), np.sin(angle), away[:, 1] * 2], axis=1)
    shade = lumps(around, rng, 0.35) + 0.6 * lumps(points, rng, 0.018) * hair.curl
    colour = hair.colour * np.clip(1 + hair.streaks * shade, 0.4, 1.9)[:, None]
    return to_linear(np.clip(colour, 0, 1))


def _shell(
    hair: Hair, vertices: Points, faces: Faces, scalp: Field, skull: Skull, rng: Generator
) -> PaintedMesh:
    cover = coverage(hair, vertices, scalp, skull)
    kept = faces[cover[faces].max(axis=1) > 0.02]
    used, local = np.unique(kept, return_inverse=True)
    normals = vertex_normals(torch.from_numpy(vertices)[None], torch.from_numpy(faces))[0].numpy()[used]
    lift = _thickness(hair, vertices[used], skull, rng) * np.sqrt(cover[used]) - _SINK * (1 - cover[used])
    points = vertices[used] + normals * lift[:, None]
    roots = 0.75 + 0.25 * smoothstep(cover[used], 0.2, 0.9)
    colours = _strands(hair, points, skull, rng) * roots[:, None]
    return _painted(points, local.reshape(-1, 3), colours)


def _curtain(hair: Hair, skull: Skull, rng: Generator, rows: int = 15, columns: int = 38) -> PaintedMesh:
    """Hair that hangs at the sides and the back, from above the ears down: an outer and an inner sheet."""
    opening = np.radians(70)  # of the face, to each side of the front
    down, angle = np.meshgrid(
        np.linspace(0, 1, rows), np.linspace(opening, 2 * np.pi - opening, columns), indexing="ij"
    )
    top, bottom = skull.ear_y + 0.045, skull.ear_y - 0.02 - 0.9 * hair.length * skull.height
    y = top + (bottom - top) * down
    below_ear = np.clip((skull.ear_y - y) / skull.height, 0, None)
    radius = skull.radius_at(angle) + hair.sides * (0.35 + 0.65 * smoothstep(down, 0.0, 0.25))
    radius = radius * (1 - 0.20 * smoothstep(below_ear, 0.1, 0.8))
    flat = np.stack([np.cos(angle), np.sin(angle), y * 4], axis=-1).reshape(-1, 3)
    wave = lumps(flat, rng, 0.5).reshape(radius.shape)
    radius = radius + (0.004 + 0.006 * hair.curl) * wave * down
    y = y + 0.006 * np.cos(9 * angle) * (down > 0.95)  # uneven tips
    # Both sheets meet at the borders, so that nobody looks between them.
    side = np.minimum(angle - opening, 2 * np.pi - opening - angle)
    thick = 0.016 * smoothstep(side, 0.0, 0.25) * (1 - smoothstep(down, 0.85, 1.0))
    follow = 1 - 0.6 * smoothstep(below_ear.ravel(), 0.15, 0.9)
    faces = grid_faces(rows, columns, closed=False)

    def sheet(depth: Field, faces: Faces, shade: float, gloss: float) -> PaintedMesh:
        around = np.stack([np.sin(angle), np.zeros_like(angle), np.cos(angle)], axis=-1)
        points = skull.centre * np.array([1, 0, 1]) + (radius - depth)[..., None] * around
        points = points + np.stack([np.zeros_like(y), y, -0.008 * down], axis=-1)
        points = points.reshape(-1, 3)
        return _painted(points, faces, shade * _strands(hair, points, skull, rng), follow, gloss)

    return join([sheet(np.zeros_like(thick), faces, 1.0, _GLOSS), sheet(thick, faces[:, ::-1], 0.4, 0.0)])


def _bun(hair: Hair, skull: Skull, rng: Generator, rows: int = 10, columns: int = 16) -> PaintedMesh:
    polar, around = np.meshgrid(
        np.linspace(0, np.pi, rows), np.linspace(0, 2 * np.pi, columns, endpoint=False), indexing="ij"
    )
    ball = np.stack([np.sin(polar) * np.sin(around), np.cos(polar), np.sin(polar) * np.cos(around)], -1)
    size = rng.uniform(0.032, 0.045)
    back = skull.radius_at(np.array([np.pi]))[0]
    place = skull.centre + np.array([0.0, 0.085, -0.62 * back])
    points = place + size * ball.reshape(-1, 3) * (1 + 0.05 * lumps(ball.reshape(-1, 3), rng, 0.8))[:, None]
    return _painted(
        points, grid_faces(rows, columns, closed=True), _strands(hair, points, skull, rng), follow=1.0
    )


def _painted(
    points: Points, faces: Faces, colours: Field, follow: Field | float = 1.0, gloss: float = _GLOSS
) -> PaintedMesh:
    count = len(points)
    return PaintedMesh(points, faces, colours, np.full(count, gloss), np.broadcast_to(follow, count))


def grow_hair(
    hair: Hair, vertices: Points, faces: Faces, scalp: Field, skull: Skull, rng: Generator
) -> PaintedMesh | None:
    """The hair of one person on the unposed head; None for a bald one."""
    if hair.top == 0:
        return None
    streams = rng.spawn(3)
    parts = [_shell(hair, vertices, faces, scalp, skull, streams[0])]
    if hair.length > 0:
        parts.append(_curtain(hair, skull, streams[1]))
    if hair.bun:
        parts.append(_bun(hair, skull, streams[2]))
    return join(parts)
