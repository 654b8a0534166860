"""Triangle meshes with a colour per vertex: the common form of head, hair and clothes before rendering.

``paint_head`` chooses the colours of the head's own skin, lips, eyes, teeth, brows and beard.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from safa.synthetic.people import Colour, Complexion, mix

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


# ---- the head ----------------------------------------------------------------------------------------------

Regions = Mapping[str, Field]  # soft masks (V,) of the built-in head

_MOUTH = np.array([0.30, 0.09, 0.09])
_TEETH = np.array([0.93, 0.90, 0.84])
_SCLERA = np.array([0.93, 0.91, 0.90])
_PUPIL = np.array([0.03, 0.03, 0.03])


def _over(colours: NDArray[np.float64], mask: Field, paint: Colour) -> NDArray[np.float64]:
    return colours + (paint - colours) * np.clip(mask, 0, 1)[:, None]


def beard_mask(style: str, vertices: Points, landmarks: Points) -> Field:
    """Where a beard grows, (V,) in [0, 1], on the unposed head; lips and neck are not spared here.

    Its upper edge runs from the sideburns below the cheeks to the mouth's corners and over the upper lip.
    """
    x, y, z = vertices.T
    across = np.abs(x) / np.abs(landmarks[[2, 14], 0]).mean()
    nose, mouth, chin = landmarks[33, 1], landmarks[[48, 54], 1].mean(), landmarks[8, 1]
    sideburn = landmarks[[0, 16], 1].mean()
    edge = np.interp(
        across,
        [0.0, 0.30, 0.45, 0.75, 0.90, 1.0],
        [nose - 0.004, nose - 0.006, mouth + 0.004, mouth + 0.008, nose, sideburn],
    )
    in_front = smoothstep(z, landmarks[[0, 16], 2].mean() - 0.015, landmarks[[0, 16], 2].mean() + 0.005)
    grown = smoothstep(edge - y, -0.003, 0.006) * smoothstep(y, chin - 0.035, chin - 0.012) * in_front
    corner = np.abs(landmarks[[48, 54], 0]).mean()
    middle = 1 - smoothstep(np.abs(x), 1.0 * corner, 1.35 * corner)
    if style == "goatee":
        return grown * middle
    if style == "moustache":
        return grown * middle * smoothstep(y, mouth - 0.004, mouth + 0.002)
    return grown


def _skin(face: Complexion, vertices: Points, regions: Regions, rng: Generator) -> NDArray[np.float64]:
    blotches, spots = lumps(vertices, rng, 0.05), lumps(vertices, rng, 0.009)
    colours = face.skin * (1 + 0.025 * blotches)[:, None]
    flush = 0.30 * face.ruddy * (0.8 * regions["cheeks"] + 0.6 * regions["nose"] + 0.8 * regions["ears"])
    colours = _over(colours, flush, face.skin * np.array([1.02, 0.68, 0.66]))
    speckled = (
        face.freckles * np.clip(regions["cheeks"] + regions["nose"], 0, 1) * smoothstep(spots, 0.6, 1.2)
    )
    colours = _over(colours, 0.35 * speckled, face.skin * np.array([0.75, 0.58, 0.46]))
    return _over(colours, 0.35 * regions["eyelids"], face.skin * np.array([0.86, 0.72, 0.70]))


def paint_head(
    face: Complexion,
    hair_colour: Colour,
    hair_cover: Field,
    vertices: Points,
    landmarks: Points,
    regions: Regions,
    rng: Generator,
) -> tuple[NDArray[np.float64], Field]:
    """Colours (V, 3), linear, and gloss (V,) of the unposed head (V, 3 vertices; 68, 3 landmarks)."""
    lips = np.clip(regions["upper_lip"] + regions["lower_lip"], 0, 1)
    inner = np.clip(regions["mouth_interior"] + regions["teeth"], 0, 1)
    colours = _skin(face, vertices, regions, rng)
    below_chin = np.clip(landmarks[8, 1] - vertices[:, 1], 0, None)
    colours = colours * (1 - 0.22 * regions["neck"] * np.exp(-below_chin / 0.025))[:, None]
    beard = beard_mask(face.beard_style, vertices, landmarks) * (1 - lips) * (1 - inner)
    thick = 1 + 0.15 * lumps(vertices, rng, 0.012)
    colours = _over(colours, face.beard * beard * thick, mix(hair_colour, face.skin, 0.25 * (1 - face.beard)))
    colours = _over(colours, 0.85 * hair_cover, 0.8 * hair_colour)
    colours = _over(colours, face.brow_strength * regions["brows"] ** 0.75, face.brows)
    lashes = smoothstep(regions["eyelids"], 0.75, 0.95)
    colours = _over(colours, face.lashes * lashes, 0.3 * face.brows)
    colours = _over(colours, lips, face.lips)
    colours = _over(colours, regions["mouth_interior"], _MOUTH)
    colours = _over(colours, regions["teeth"], _TEETH)
    colours = _over(colours, regions["eyeballs"], _SCLERA)
    colours = _over(colours, regions["iris"], face.iris)
    colours = _over(colours, regions["pupil"], _PUPIL)
    matte = np.clip(inner + beard * face.beard + hair_cover, 0, 1)
    gloss = (
        0.07 * (1 - matte) + 0.12 * lips + 0.15 * regions["eyeballs"] + 0.10 * regions["nose"] * (1 - matte)
    )
    return to_linear(colours), gloss
