"""Drawing: a scene and its track to frames. Colours are computed at the vertices and interpolated between.

B frames at once, V vertices of everything, F faces, S pixels a side of the canvas.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from safa.geometry.rotations import axis_angle_to_matrix
from safa.head.model import weak_perspective
from safa.head.raster import interpolate_vertices, make_rasterizer
from safa.head.render import BEHIND_SCREEN, vertex_normals
from safa.synthetic.people import Light
from safa.synthetic.scene import Scene, head_model
from safa.synthetic.truth import Canvas, Track

_BODY_TURN = 0.3  # the body follows this part of the head's rotation
_WRAP = 0.35  # light reaches this far (as a cosine) around the edge of the lit side: skin scatters it
_SHININESS = 18.0
_BATCH = 4  # frames drawn at once: enough to spread torch's overhead, few enough to stay in the cache
_GAMMA = 2.2
_BLUR = 0.75  # of the outline: 0 leaves its steps, 1 is the mean of nine pixels


def render(scene: Scene, canvas: Canvas) -> Iterator[NDArray[np.uint8]]:
    """The frames (H, W, 3) uint8 of a scene, in order."""
    artist = _Artist(scene, canvas)
    for start in range(0, len(scene.track), _BATCH):
        yield from artist.draw(scene.track, slice(start, start + _BATCH))


class _Artist:
    """The scene's constant parts as tensors."""

    def __init__(self, scene: Scene, canvas: Canvas) -> None:
        model = head_model()
        count = len(scene.colours)
        self.model = model
        self.faces = torch.from_numpy(np.concatenate([scene.faces, scene.attached.faces + count]))
        self.colours = _float(np.concatenate([scene.colours, scene.attached.colours]))
        self.gloss = _float(np.concatenate([scene.gloss, scene.attached.gloss]))[:, None]
        self.attached = _float(scene.attached.vertices)
        self.follow = _float(scene.attached.follow)[:, None]
        self.pivot = _float(scene.pivot)
        self.light = scene.light
        self.canvas = canvas
        self.backdrop = _float(scene.backdrop).movedim(-1, 0)  # (3, H, W)
        self.rasterize = make_rasterizer("native")

    @torch.inference_mode()
    def draw(self, track: Track, frames: slice) -> NDArray[np.uint8]:
        """(B, H, W, 3) uint8."""
        vertices = self._place(track, frames)
        colours = shade(vertex_normals(vertices, self.faces), self.colours, self.gloss, self.light)
        faces = self.faces[_towards_viewer(vertices, self.faces)]
        shifted = vertices + torch.tensor([0.0, 0.0, BEHIND_SCREEN])
        fragments = self.rasterize(shifted, faces, self.canvas.side)
        person = self._in_frame(interpolate_vertices(fragments, colours, faces))
        covered = self._in_frame(fragments.hit.unsqueeze(1))
        picture = torch.where(covered, person.clamp(0, 1) ** (1 / _GAMMA), self.backdrop)
        picture = soften_outlines(picture, covered)
        return (picture.movedim(1, -1) * 255).round().clamp(0, 255).to(torch.uint8).numpy()

    def _in_frame(self, picture: Tensor) -> Tensor:
        """Cut the frame (B, D, H, W) out of the canvas (B, D, S, S)."""
        top, left = self.canvas.top, self.canvas.left
        height, width = self.backdrop.shape[1:]
        return picture[:, :, top : top + height, left : left + width]

    def _place(self, track: Track, frames: slice) -> Tensor:
        """Vertices of everything on the screen, (B, V, 3)."""
        code = track.at(frames).code()
        head = self.model.vertices_in_model_space(code.shape, code.expression, code.rotation, code.jaw)
        arm = self.attached - self.pivot
        with_head = arm @ axis_angle_to_matrix(code.rotation).mT
        with_body = arm @ axis_angle_to_matrix(code.rotation * _BODY_TURN).mT
        attached = self.pivot + self.follow * with_head + (1 - self.follow) * with_body
        return weak_perspective(torch.cat([head, attached], dim=1), code.scale, code.translation)


def _float(array: NDArray[np.floating]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))


def shade(normals: Tensor, colours: Tensor, gloss: Tensor, light: Light) -> Tensor:
    """Linear RGB (B, V, 3): wrapped Lambert, ambient from sky and ground, a Blinn highlight.

    Args:
        normals: (B, V, 3) on the screen (y down, z away).
        colours: (V, 3), linear.
        gloss: (V, 1).
    """
    to_light = torch.tensor(light.direction, dtype=torch.float32) * torch.tensor([1.0, -1.0, -1.0])
    half = functional.normalize(to_light + torch.tensor([0.0, 0.0, -1.0]), dim=0)
    key, sky, ground = (torch.tensor(c, dtype=torch.float32) for c in (light.key, light.sky, light.ground))
    direct = ((normals @ to_light + _WRAP) / (1 + _WRAP)).clamp(min=0).unsqueeze(-1)
    upward = 0.5 - 0.5 * normals[..., 1:2]
    ambient = ground + (sky - ground) * upward
    highlight = gloss * (normals @ half).clamp(min=0).unsqueeze(-1) ** _SHININESS
    return colours * (direct * key + ambient) + highlight * key


def _towards_viewer(vertices: Tensor, faces: Tensor) -> Tensor:
    """(F,) bool: faces that turn their outside to the viewer in at least one frame of the batch."""
    x, y = vertices[:, :, 0][:, faces], vertices[:, :, 1][:, faces]  # (B, F, 3)
    across = (x[..., 1] - x[..., 0]) * (y[..., 2] - y[..., 0])
    along = (y[..., 1] - y[..., 0]) * (x[..., 2] - x[..., 0])
    return (across - along < 0).any(dim=0)


def soften_outlines(picture: Tensor, covered: Tensor) -> Tensor:
    """Blur (B, 3, H, W) along the border of ``covered`` (B, 1, H, W): cheap anti-aliasing of the outline."""
    share = functional.avg_pool2d(covered.float(), 3, stride=1, padding=1, count_include_pad=False)
    frame, _, row, column = ((share > 0.01) & (share < 0.99)).nonzero(as_tuple=True)
    around = functional.pad(picture, (1, 1, 1, 1), mode="replicate").movedim(1, -1)
    blurred = sum(around[frame, row + i, column + j] for i in range(3) for j in range(3)) / 9
    softened = picture.movedim(1, -1).clone()
    softened[frame, row, column] += _BLUR * (blurred - softened[frame, row, column])
    return softened.movedim(-1, 1)
