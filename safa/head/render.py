"""Images of the 3D head: texture from a photo, and one texture seen in two poses.

B batch, V vertices, F faces, S pixels a side of an image, T texels a side of the albedo.
Source: SAFA (Wang et al., 2021), section 3.1; docs/model.md, section 3.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from safa.geometry.grids import warp
from safa.head.model import HeadGeometry
from safa.head.raster import Fragments, Rasterizer, interpolate, interpolate_vertices

BEHIND_SCREEN = 10.0  # screen units added to z, so that no part of a head is in front of the screen
NORMAL_EPSILON = 1e-6  # smallest length that a normal is divided by


@dataclass(frozen=True)
class Surface:
    """What all poses of a head share: its faces and where they lie on the texture.

    Attributes:
        faces: (F, 3) vertex indices.
        face_uv: (1, F, 3, 2), texture position of each corner; [-1, 1], y down.
        texels: fragments of the texture layout itself, (1, T, T).
    """

    faces: Tensor
    face_uv: Tensor
    texels: Fragments


@dataclass(frozen=True)
class RenderedSide:
    """A head in one pose, before any texture is on it. Missed pixels are 0.

    Attributes:
        geometry: the head.
        fragments: which face each pixel sees.
        uv: (B, 2, S, S), texture position at each pixel.
        normals: (B, 3, S, S), in screen axes.
    """

    geometry: HeadGeometry
    fragments: Fragments
    uv: Tensor
    normals: Tensor

    @property
    def alpha(self) -> Tensor:
        """(B, 1, S, S): 1 where the head is, else 0."""
        return self.fragments.hit.unsqueeze(1).to(self.uv.dtype)  # (B, S, S) -> (B, 1, S, S)


@dataclass(frozen=True)
class HeadRender:
    """One texture in the source's and in the driving pose; each map is 0 outside its own mask.

    Attributes:
        source: (B, 3, S, S), the textured head in the source pose.
        reenact: (B, 3, S, S), the same texture in the driving pose.
        source_mask, driving_mask: (B, 1, S, S), 1 where that image is not black. No gradient.
        source_normals, driving_normals: (B, 3, S, S).
        source_uv, driving_uv: (B, 2, S, S), texture positions.
        motion_field: (B, 2, S, S), from driving to source position, in normalised units; where to read the
            source minus where one is.
    """

    source: Tensor
    reenact: Tensor
    source_mask: Tensor
    driving_mask: Tensor
    source_normals: Tensor
    driving_normals: Tensor
    source_uv: Tensor
    driving_uv: Tensor
    motion_field: Tensor


def bake_texture(image: Tensor, geometry: HeadGeometry, surface: Surface, mask: Tensor) -> Tensor:
    """Read the photo at every texel: albedo (B, 3, T, T) in [0, 1], 0 outside the mask.

    Args:
        image: (B, 3, H, W) in [0, 1].
        geometry: the head in that image.
        mask: (1, 1, T, T), the part of the texture to keep.
    """
    batch = len(image)
    texels = expand_fragments(surface.texels, batch)
    position = interpolate_vertices(texels, geometry.vertices[..., :2], surface.faces)
    return warp(image, position.permute(0, 2, 3, 1)) * mask  # (B, 2, T, T) -> (B, T, T, 2) -> (B, 3, T, T)


def render_side(geometry: HeadGeometry, surface: Surface, size: int, rasterizer: Rasterizer) -> RenderedSide:
    """Rasterise a head at ``size`` x ``size`` pixels."""
    behind = geometry.vertices.new_tensor([0, 0, BEHIND_SCREEN])
    fragments = rasterizer(geometry.vertices + behind, surface.faces, size)
    normals = vertex_normals(geometry.vertices, surface.faces)
    return RenderedSide(
        geometry,
        fragments,
        uv=interpolate(fragments, surface.face_uv),
        normals=interpolate_vertices(fragments, normals, surface.faces),
    )


def render_pair(source: RenderedSide, driving: RenderedSide, albedo: Tensor, faces: Tensor) -> HeadRender:
    """Put one texture (B, 3, T, T) on both sides and measure the motion between them.

    A source side and an albedo of batch 1 serve every driving side.
    """
    batch = len(driving.uv)
    shift = source.geometry.vertices[..., :2] - driving.geometry.vertices[..., :2]
    motion = interpolate_vertices(driving.fragments, shift, faces)
    source_image, source_mask = _textured(source, albedo)
    # (1 or B, 3, T, T) -> (B, 3, S, S)
    reenact, driving_mask = _textured(driving, albedo.expand(batch, -1, -1, -1))
    return HeadRender(
        source=_repeat(source_image, batch),
        reenact=reenact,
        source_mask=_repeat(source_mask, batch),
        driving_mask=driving_mask,
        source_normals=_repeat(source.normals * source_mask, batch),
        driving_normals=driving.normals * driving_mask,
        source_uv=_repeat(source.uv * source_mask, batch),
        driving_uv=driving.uv * driving_mask,
        motion_field=motion * driving_mask,
    )


def vertex_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """Unit normals (B, V, 3): the faces around a vertex, each weighing as much as its area.

    A face's normal is computed at each of its corners anew. Where folded faces cancel out, what is left are
    the rounding errors, and published numbers hold these.
    """
    # (B, V, 3) -> (V, B, 3): what is gathered and added are then long rows, which is faster.
    by_vertex = vertices.transpose(0, 1).contiguous()
    corners = [by_vertex.index_select(0, index) for index in faces.unbind(1)]  # three of (F, B, 3)
    sums = torch.zeros_like(by_vertex)
    for at, following, last in ((1, 2, 0), (2, 0, 1), (0, 1, 2)):
        cross = torch.linalg.cross(corners[following] - corners[at], corners[last] - corners[at])
        sums = sums.index_add(0, faces[:, at], cross)
    return F.normalize(sums, dim=-1, eps=NORMAL_EPSILON).transpose(0, 1)  # (V, B, 3) -> (B, V, 3)


def expand_fragments(fragments: Fragments, batch: int) -> Fragments:
    """Fragments of batch 1 seen as a larger batch, without a copy."""
    return Fragments(
        fragments.face_index.expand(batch, -1, -1),  # (B, T, T)
        fragments.zbuf.expand(batch, -1, -1),  # (B, T, T)
        fragments.bary.expand(batch, -1, -1, -1),  # (B, T, T, 3)
    )


def _textured(side: RenderedSide, albedo: Tensor) -> tuple[Tensor, Tensor]:
    """The side's image (B, 3, S, S), and where it is not black, (B, 1, S, S) without gradient."""
    # (B, 2, S, S) -> (B, S, S, 2) -> (B, 3, S, S)
    image = warp(albedo, side.uv.permute(0, 2, 3, 1)) * side.alpha
    mask = (image.detach().sum(1, keepdim=True) != 0).to(image.dtype)
    return image, mask


def _repeat(tensor: Tensor, batch: int) -> Tensor:
    """A tensor of batch 1 seen as a larger batch; any other stays as it is."""
    # (1, D, S, S) -> (B, D, S, S)
    return tensor if len(tensor) == batch else tensor.expand(batch, -1, -1, -1)
