"""A head's texture from the whole photo, at the photo's resolution, without holes.

Training and motion need a small albedo of the face alone (``safa.head.render.bake_texture``). What people
look at is read from the photo itself, wherever the head faces the viewer; and what nobody has seen, as the
back of the head, takes the colours of the head's other half, and of what is nearest to it on the texture,
from coarse to fine (Gortler et al., "The Lumigraph", 1996: push and pull).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from safa.geometry.grids import warp
from safa.head.model import HeadGeometry
from safa.head.raster import interpolate_vertices, make_rasterizer, rasterize
from safa.head.render import render_side, vertex_normals
from safa.inference.face_crop import CropBox, crop_face
from safa.models.tdmm import Tdmm
from safa.visualize.images import RgbImage, from_tensor

TEXTURE_SIZE = 1024  # texels a side
LARGEST_CROP = 1024  # px a side of the photo's part that is read
# Cosine of the angle between the surface and the viewer: what is steeper than the first is not read, and from
# the second on the photo counts fully. Beyond the face, where background lies close, both are stricter.
IN_FACE, BEYOND_FACE = (0.3, 0.6), (0.8, 0.95)
# A head that is fitted too large has background at its rim, so deep (of its width). What is read there has to
# differ from what lies as far outside: by the first not at all, by the second enough (of 1).
RIM, DIFFERENT = 0.125, (0.06, 0.16)
RIM_SIZE = 256  # px a side in which the rim is looked at; a power of two
UNSEEN = 0.62  # grey, if nothing at all was seen


@torch.inference_mode()
def photo_texture(photo: RgbImage, crop_box: CropBox, tdmm: Tdmm, geometry: HeadGeometry) -> RgbImage:
    """Return the texture (TEXTURE_SIZE, TEXTURE_SIZE, 3) of a head in a photo.

    Args:
        photo: (H, W, 3).
        crop_box: the part of the photo that the model saw; ``geometry`` is in its units.
        geometry: the head, batch 1.
    """
    side = min(max(round(float(crop_box[2])), tdmm.image_size), LARGEST_CROP)
    face = torch.from_numpy(crop_face(photo, crop_box, side).copy()).permute(2, 0, 1)[None]
    image = face.to(geometry.vertices) / 255  # (1, 3, side, side)
    texels = rasterize(tdmm.uvcoords, tdmm.uvfaces[0], TEXTURE_SIZE)
    faces = tdmm.faces[0]
    position = interpolate_vertices(texels, geometry.vertices[..., :2], faces)  # (1, 2, T, T)
    normals = interpolate_vertices(texels, vertex_normals(geometry.vertices, faces), faces)
    colour = warp(image, position.permute(0, 2, 3, 1))  # (1, 2, T, T) -> (1, T, T, 2)
    facing = -normals[:, 2:]  # (1, 1, T, T)
    size = (TEXTURE_SIZE, TEXTURE_SIZE)
    in_face = F.interpolate(tdmm.uv_face_eye_mask, size, mode="bilinear", align_corners=False)
    seen = torch.lerp(_ramp(facing, *BEYOND_FACE), _ramp(facing, *IN_FACE), in_face)
    inside = (position.abs() < 1 - 1 / side).all(dim=1, keepdim=True)
    kept = warp(_not_background(image, tdmm, geometry), position.permute(0, 2, 3, 1))  # (1, 1, T, T)
    seen = seen * inside * texels.hit[:, None] * kept
    around = filled(*_with_mirror_image(colour, seen))
    return from_tensor(torch.lerp(around, colour, seen)[0])


def _not_background(image: Tensor, tdmm: Tdmm, geometry: HeadGeometry) -> Tensor:
    """Where to read a photo (1, 1, RIM_SIZE, RIM_SIZE): 0 at the head's rim where background shows.

    The background is what lies beside the head, with a gap, since a head may be fitted too small, too.
    """
    small = F.interpolate(image, (RIM_SIZE, RIM_SIZE), mode="area")
    head = render_side(geometry, tdmm.surface, RIM_SIZE, make_rasterizer("native")).alpha
    depth = max(1, round(float(head[0, 0].amax(dim=0).sum()) * RIM))
    beside = 1 - F.max_pool2d(head, 2 * depth + 1, 1, depth)
    different = (small - filled(small, beside)).abs().amax(dim=1, keepdim=True)
    rim = F.max_pool2d(1 - head, 2 * depth + 1, 1, depth)
    return torch.where(rim > 0, _ramp(different, *DIFFERENT), 1.0)


def _with_mirror_image(colour: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Colours and weights with those of the other half: heads are nearly symmetric, and so is the layout."""
    sums = seen + seen.flip(-1)
    both = (colour * seen + (colour * seen).flip(-1)) / sums.clamp(min=1e-6)
    return both, sums.clamp(max=1)


def filled(colour: Tensor, weight: Tensor) -> Tensor:
    """Keep colours (B, 3, T, T) where their weight (B, 1, T, T) in [0, 1] is 1; others come from around.

    T is a power of two.
    """
    if colour.shape[-1] == 1:
        return torch.where(weight > 0, colour, torch.full_like(colour, UNSEEN))
    sums = F.avg_pool2d(weight, 2)
    coarse = F.avg_pool2d(colour * weight, 2) / sums.clamp(min=1e-6)
    around = filled(coarse, (4 * sums).clamp(max=1))
    larger = F.interpolate(around, scale_factor=2, mode="bilinear", align_corners=False)
    return torch.lerp(larger, colour, weight)


def _ramp(value: Tensor, low: float, high: float) -> Tensor:
    return ((value - low) / (high - low)).clamp(0, 1)
