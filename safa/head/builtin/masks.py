"""Which part of the texture is face: with and without the eyes."""

from __future__ import annotations

import numpy as np
import torch

from safa.head.builtin.features import smoothstep
from safa.head.builtin.loft import MM, Array
from safa.head.builtin.mesh import Mesh
from safa.head.builtin.skin import LIP_LINE
from safa.head.raster import interpolate, rasterize

MASK_SIZE = 256


def texture_masks(mesh: Mesh) -> tuple[Array, Array]:
    """The face, and the face with its eyes: masks (256, 256) in [0, 1], first row at the top of the texture.

    The face is the front of the skin from forehead to chin, lips included; neither holds the mouth's inside.
    """
    x, y, z = (mesh.vertices / MM).T
    inside = np.zeros(len(x))
    inside[mesh.mouth.rings[LIP_LINE + 2 :]] = 1
    inside[mesh.pocket_end] = 1
    front = smoothstep(z, -22.0, -8.0) * smoothstep(y, -104.0, -96.0) * (1 - smoothstep(y, 88.0, 100.0))
    face = mesh.mask("skin") * front * (1 - inside)
    eyes = (mesh.mask("eye_left") + mesh.mask("eye_right")) * (mesh.level < 100)
    both = np.stack([face, np.maximum(face, eyes)], axis=-1)[mesh.faces]
    both[inside[mesh.faces].any(1)] = 0
    # Screen rows go down, texture coordinates up.
    flat = np.stack([mesh.uv[:, 0] * 2 - 1, 1 - mesh.uv[:, 1] * 2, np.ones(len(mesh.uv))], axis=-1)
    fragments = rasterize(torch.from_numpy(flat)[None].float(), torch.from_numpy(mesh.uv_faces), MASK_SIZE)
    masks = interpolate(fragments, torch.from_numpy(both).float()[None])[0].clamp(0, 1)
    return masks[0].numpy().astype(float), masks[1].numpy().astype(float)
