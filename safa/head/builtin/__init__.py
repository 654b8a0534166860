"""A procedural 3D head with FLAME's arrays: the default wherever FLAME is not given. Nothing is downloaded.

Metres; y up, x to the subject's left, z out of the face; the neck's axis at x = 0, the mouth near y = -0.046.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

from safa.head.assets import HeadAssets
from safa.head.builtin.expressions import EXPRESSIONS, NUM_EXPRESSIONS, expression_directions
from safa.head.builtin.identities import IDENTITIES, identity_directions
from safa.head.builtin.landmarks import Embedding, contour_landmarks, static_landmarks
from safa.head.builtin.mesh import Mesh, build_mesh
from safa.head.builtin.regions import region_masks, texture_masks
from safa.head.builtin.skin import EYE_RINGS
from safa.head.builtin.skinning import PARENTS, joint_regressor, pose_correctives, skinning_weights

__all__ = ["EXPRESSIONS", "IDENTITIES", "BuiltinHead", "build"]

# Expressions people speak of, as sums of coefficients.
_NAMED = {
    "smile": ("smile_left", "smile_right"),
    "brows_up": ("brow_raise_left", "brow_raise_right"),
    "brows_down": ("brow_lower",),
    "blink": ("blink_left", "blink_right"),
    "squint": ("squint_left", "squint_right"),
    "wide_eyes": ("wide_eye_left", "wide_eye_right"),
}


@dataclass(frozen=True)
class BuiltinHead:
    """The built-in head.

    Attributes:
        assets: the same arrays that FLAME has.
        regions: soft masks (V,) in [0, 1] by name, as ``regions.region_masks``.
        expressions: coefficients (50,) of named expressions at full strength: each of
            ``expressions.EXPRESSIONS``, and sums such as smile, blink, brows_up, brows_down.
    """

    assets: HeadAssets
    regions: Mapping[str, NDArray[np.float32]]
    expressions: Mapping[str, NDArray[np.float32]]


def named_expressions() -> dict[str, NDArray[np.float32]]:
    """Coefficients (50,) by name."""
    unit = np.eye(NUM_EXPRESSIONS, dtype=np.float32)
    named = {name: unit[index] for index, name in enumerate(EXPRESSIONS)}
    sums = {name: np.sum([named[part] for part in parts], axis=0) for name, parts in _NAMED.items()}
    return {**named, **sums}


@cache
def build() -> BuiltinHead:
    """The built-in head: about 5,900 vertices, the same every time. Takes about a second, once."""
    mesh = build_mesh()
    regions = {name: mask.astype(np.float32) for name, mask in region_masks(mesh).items()}
    static = static_landmarks(mesh, lid_edge=len(EYE_RINGS))
    contour = contour_landmarks(mesh)
    assets = _assets(mesh, static, contour)
    assets.validate("built-in head")
    return BuiltinHead(assets, regions, named_expressions())


def _assets(mesh: Mesh, static: Embedding, contour: Embedding) -> HeadAssets:
    face_mask, face_eye_mask = texture_masks(mesh)
    return HeadAssets(
        v_template=_floats(mesh.vertices),
        faces=_integers(mesh.faces),
        shapedirs=_floats(identity_directions(mesh)),
        expressiondirs=_floats(expression_directions(mesh)),
        posedirs=_floats(pose_correctives(mesh)),
        J_regressor=_floats(joint_regressor(mesh)),
        parents=torch.tensor(PARENTS),
        lbs_weights=_floats(skinning_weights(mesh)),
        static_lmk_faces=_integers(static.faces),
        static_lmk_bary=_floats(static.bary),
        dynamic_lmk_faces=_integers(contour.faces),
        dynamic_lmk_bary=_floats(contour.bary),
        full_lmk_faces=_integers(np.concatenate([contour.faces[0], static.faces])),  # (68,)
        full_lmk_bary=_floats(np.concatenate([contour.bary[0], static.bary])),  # (68, 3)
        uv_coords=_floats(mesh.uv),
        uv_faces=_integers(mesh.uv_faces),
        face_mask=_floats(face_mask),
        face_eye_mask=_floats(face_eye_mask),
    )


def _floats(array: NDArray[np.float64]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))


def _integers(array: NDArray[np.int64]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.int64))
