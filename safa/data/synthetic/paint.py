"""Colours of the head's own skin, lips, eyes, teeth, brows and beard: one for each vertex."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from safa.data.synthetic.mesh import Field, Points, lumps, smoothstep, to_linear
from safa.data.synthetic.people import Colour, Complexion, mix

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
