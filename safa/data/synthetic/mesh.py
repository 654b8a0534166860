"""Painted triangle meshes: the common form of head, hair and clothes before they are drawn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]  # (N, 3) metres; x to the person's left, y up, z out of the face
Faces = NDArray[np.int64]  # (F, 3)
Field = NDArray[np.float64]  # (N,) one value for each vertex, or (N, 3) one colour


@dataclass(frozen=True)
class PaintedMesh:
    """A mesh at rest with a colour for each vertex.

    Attributes:
        vertices: (V, 3) metres.
        faces: (F, 3) vertex indices, counter-clockwise seen from outside.
        colours: (V, 3) linear RGB, what the surface reflects.
        gloss: (V,) strength of the highlight.
        follow: (V,) 1 = turns with the head, 0 = with the body.
    """

    vertices: Points
    faces: Faces
    colours: Field
    gloss: Field
    follow: Field


def join(meshes: list[PaintedMesh]) -> PaintedMesh:
    """One mesh of several; nothing is welded."""
    offsets = np.cumsum([0] + [len(m.vertices) for m in meshes[:-1]])
    return PaintedMesh(
        vertices=np.concatenate([m.vertices for m in meshes]),
        faces=np.concatenate([m.faces + offset for m, offset in zip(meshes, offsets, strict=True)]),
        colours=np.concatenate([m.colours for m in meshes]),
        gloss=np.concatenate([m.gloss for m in meshes]),
        follow=np.concatenate([m.follow for m in meshes]),
    )


def to_linear(colour: Field) -> Field:
    """sRGB to linear light, with the plain power 2.2."""
    linear: Field = np.clip(colour, 0, 1) ** 2.2
    return linear


def grid_faces(rows: int, columns: int, closed: bool) -> Faces:
    """Triangles of a rows x columns lattice (row-major); ``closed`` joins its last column to the first.

    Seen with the rows going down and the columns going right, faces are counter-clockwise.
    """
    row, column = np.mgrid[0 : rows - 1, 0 : columns if closed else columns - 1]
    right = (column + 1) % columns
    a, b = row * columns + column, row * columns + right
    c, d = (row + 1) * columns + column, (row + 1) * columns + right
    return np.concatenate([np.stack([a, c, b], -1).reshape(-1, 3), np.stack([b, c, d], -1).reshape(-1, 3)])


def smoothstep(x: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    """0 below ``low``, 1 above ``high``, smooth between."""
    t: NDArray[np.float64] = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def lumps(
    points: Points, seed_rng: np.random.Generator, wavelength: float, waves: int = 12
) -> NDArray[np.float64]:
    """Smooth random field over space, (N,), about unit variance: a sum of plane waves."""
    directions = seed_rng.standard_normal((waves, 3))
    directions *= 2 * np.pi / (wavelength * np.linalg.norm(directions, axis=1, keepdims=True))
    phases = seed_rng.uniform(0, 2 * np.pi, waves)
    field: NDArray[np.float64] = np.cos(points @ directions.T + phases).sum(axis=1) * np.sqrt(2 / waves)
    return field
