"""Soft masks: what each vertex is, for painting, and which part of the texture is face."""

from __future__ import annotations

import numpy as np
import torch

from safa.head.builtin.mesh import Mesh
from safa.head.builtin.organs import IRIS_EDGE, PUPIL_EDGE
from safa.head.builtin.skin import EYE_RINGS, LIP_BORDER, LIP_LINE
from safa.head.builtin.surface import MM, Array, bump, smoothstep
from safa.head.raster import interpolate, rasterize


def _brows(x: Array, y: Array) -> Array:
    side = np.abs(x)
    arch = np.interp(side, [12, 16, 24, 33, 42, 50, 56], [40.6, 41.4, 43.3, 44.2, 43.2, 39.6, 36.0])
    thick = np.interp(side, [12, 18, 40, 54], [2.8, 3.2, 3.0, 2.6])
    hair = np.exp(-0.5 * (np.abs(y - arch) / thick) ** 2)
    return hair * smoothstep(side, 10.5, 15.0) * (1 - smoothstep(side, 44.0, 55.0))


def _scalp(x: Array, y: Array, z: Array) -> Array:
    """Where hair grows: behind the hair line, above the neck; not round the ears."""
    side = np.abs(x)
    front_line = 82.0 - 0.0025 * np.clip(side - 20, 0, None) ** 2 - 4 * bump(side, side, (0, 0), (10, 10))
    in_front = smoothstep(y, front_line - 5, front_line + 5)
    temple = smoothstep(side, 60.0, 68.0) * smoothstep(y - 0.5 * np.clip(z, 0, None), 2.0, 16.0)
    line = np.interp(z, [-60, -40, -12, 12, 30], [-62.0, -30.0, 14.0, 22.0, 60.0])
    behind = smoothstep(y, line - 6, line + 6) * (1 - smoothstep(z, 5.0, 22.0))
    return np.maximum(np.maximum(in_front, temple * (1 - smoothstep(z, 12.0, 26.0))), behind)


def region_masks(mesh: Mesh) -> dict[str, Array]:
    """(V,) masks in [0, 1] by name."""
    x, y, z = (mesh.vertices / MM).T  # (V, 3) -> three of (V,)
    side, skin = np.abs(x), mesh.mask("skin")
    front = skin * smoothstep(z, -5.0, 20.0)
    eyeballs = mesh.mask("eye_left") + mesh.mask("eye_right")
    mouth = mesh.mouth
    inside = np.zeros(len(x))
    inside[mouth.rings[LIP_LINE + 2 :]] = 1
    inside[mesh.pocket_end] = 1
    lips = []
    for columns in (mouth.upper, mouth.lower):
        lip = np.zeros(len(x))
        lip[mouth.rings[LIP_BORDER + 1 : LIP_LINE + 2][:, columns]] = 1
        lip[mouth.rings[LIP_BORDER + 2 : LIP_LINE + 2][:, [0, mouth.half]]] = 0.5
        lip[mouth.rings[LIP_BORDER + 1]] *= 0.65
        lips.append(lip)
    lids, lashes = np.zeros(len(x)), np.zeros(len(x))
    for ring in (mesh.left_eye, mesh.right_eye):
        edge = ring.rings[len(EYE_RINGS) - 1 : len(EYE_RINGS) + 1]
        lashes[edge[:, ring.upper]] = [[0.4], [1.0]]
        lashes[edge[1, ring.lower]] = 0.35
        for index, share in enumerate(EYE_RINGS):
            lids[ring.rings[index + 1]] = np.clip(1 - share / 0.42, 0, 1)
        lids[ring.rings[len(EYE_RINGS) + 1 :]] = 1
    face = front * (1 - inside)
    throat = np.interp(z, [-80, -20, 15, 55], [-62.0, -72.0, -93.0, -97.0])
    return {
        "skin": skin * (1 - inside) + mesh.mask("ear_left") + mesh.mask("ear_right"),
        "scalp": skin * _scalp(x, y, z),
        "brows": face * _brows(x, y),
        "upper_lip": lips[0],
        "lower_lip": lips[1],
        "mouth_interior": inside,
        "teeth": mesh.mask("teeth_upper") + mesh.mask("teeth_lower"),
        "eyeballs": eyeballs,
        "iris": eyeballs * (1 - smoothstep(mesh.level, *IRIS_EDGE)),
        "pupil": eyeballs * (1 - smoothstep(mesh.level, *PUPIL_EDGE)),
        "eyelids": lids,
        "lashes": lashes,
        "nostrils": skin
        * bump(side, z, (6.3, 80.0), (2.8, 4.0), 3.0)
        * smoothstep(-y, 18.0, 21.0)
        * smoothstep(y, -30.0, -27.0),
        "ears": mesh.mask("ear_left") + mesh.mask("ear_right"),
        "neck": skin * (1 - inside) * (1 - smoothstep(y, throat - 6, throat + 6)),
        "nose": face * bump(side, y, (0.0, -2.0), (13.0, 19.0), 3.0),
        "cheeks": face * bump(side, y, (40.0, -20.0), (15.0, 17.0), 2.4) * (1 - np.maximum(*lips)),
        "chin": face * bump(side, y, (0.0, -82.0), (20.0, 12.0), 2.6),
    }


MASK_SIZE = 256


def texture_masks(mesh: Mesh) -> tuple[Array, Array]:
    """The face, and the face with its eyes: masks (256, 256) in [0, 1], first row at the top of the texture.

    The face is the front of the skin from forehead to chin, lips included; neither holds the mouth's inside.
    """
    x, y, z = (mesh.vertices / MM).T  # (V, 3) -> three of (V,)
    inside = np.zeros(len(x))
    inside[mesh.mouth.rings[LIP_LINE + 2 :]] = 1
    inside[mesh.pocket_end] = 1
    front = smoothstep(z, -22.0, -8.0) * smoothstep(y, -104.0, -96.0) * (1 - smoothstep(y, 88.0, 100.0))
    face = mesh.mask("skin") * front * (1 - inside)
    eyes = (mesh.mask("eye_left") + mesh.mask("eye_right")) * (mesh.level < 100)
    both = np.stack([face, np.maximum(face, eyes)], axis=-1)[mesh.faces]  # (V, 2) -> (F, 3, 2)
    both[inside[mesh.faces].any(1)] = 0
    # Screen rows go down, texture coordinates up.
    flat = np.stack([mesh.uv[:, 0] * 2 - 1, 1 - mesh.uv[:, 1] * 2, np.ones(len(mesh.uv))], axis=-1)  # (T, 3)
    # (T, 3) -> (1, T, 3)
    fragments = rasterize(torch.from_numpy(flat)[None].float(), torch.from_numpy(mesh.uv_faces), MASK_SIZE)
    # (1, F, 3, 2) -> (2, M, M)
    masks = interpolate(fragments, torch.from_numpy(both).float()[None])[0].clamp(0, 1)
    return masks[0].numpy().astype(float), masks[1].numpy().astype(float)
