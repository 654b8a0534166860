"""``safa reconstruct3d``: the head in a photo as files that other programs open, and pictures of it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from safa.data.video import write_video
from safa.geometry.grids import warp
from safa.head.model import HeadCode, HeadGeometry
from safa.head.raster import make_rasterizer
from safa.head.render import render_side
from safa.inference.facebox import cut
from safa.inference.film import COMMENT
from safa.inference.mesh import HeadBatch, Mesh, mesh_of, write_obj
from safa.models.tdmm import Tdmm
from safa.pictures.canvas import Picture, from_tensor, side_by_side
from safa.pictures.points import ESTIMATED, with_landmarks

SIZE = 384  # px, of the pictures
TURN_FRAMES, TURN_FPS = 72, 24.0
TURN_BATCH = 12
CLAY = 0.62  # grey of what the photo does not show
FILL = 0.9  # share of the turntable's width that the head takes
PAPER = 0.12


@dataclass(frozen=True)
class Head:
    """One reconstructed head.

    Attributes:
        photo: (H, W, 3), where it was seen.
        square: (3,) px, what the model saw of it.
        batch: batch 1.
        tdmm: the model that found it.
    """

    photo: Picture
    square: NDArray[np.float64]
    batch: HeadBatch
    tdmm: Tdmm

    @property
    def landmarks(self) -> NDArray[np.float64]:
        """(68, 2) px of the photo, continuous: 0 is its left edge."""
        points = self.batch.landmarks[0].double().cpu().numpy()
        return _to_photo(points, self.square, self.batch.image.shape[-1])

    @property
    def mesh(self) -> Mesh:
        """Vertices in metres, faces and texture."""
        return mesh_of(self.tdmm, self.batch, 0)

    def overlay(self) -> Picture:
        """The face, and beside it the shaded head over it with the 68 landmarks."""
        face = cut(self.photo, self.square, SIZE)
        shaded, alpha = _shaded(self.tdmm, self.batch.geometry, None, SIZE)
        blend = torch.from_numpy(face.copy()).permute(2, 0, 1).float() / 255
        over = from_tensor(torch.lerp(blend, shaded[0].cpu(), 0.6 * alpha[0].cpu()))
        points = self.batch.landmarks[0].cpu().numpy() * (SIZE / self.batch.image.shape[-1])
        return side_by_side([face, with_landmarks(over, [(points, ESTIMATED)], SIZE)])

    def turntable(self) -> Iterator[Picture]:
        """The textured head in one full turn, (SIZE, SIZE, 3) each."""
        vertices = self.batch.geometry.vertices
        middle = (vertices.amax(1, keepdim=True) + vertices.amin(1, keepdim=True)) / 2
        centred = vertices - middle
        centred = centred * (FILL / centred.norm(dim=-1).amax())
        angles = torch.arange(TURN_FRAMES) * (2 * math.pi / TURN_FRAMES)
        for part in torch.split(angles, TURN_BATCH):
            turned = centred @ _about_y(part).to(centred).transpose(1, 2)
            geometry = HeadGeometry(turned, turned[:, :68], turned[:, :68])
            albedo = self.batch.albedo.expand(len(part), -1, -1, -1)
            shaded, alpha = _shaded(self.tdmm, geometry, albedo, SIZE)
            yield from map(from_tensor, torch.lerp(torch.full_like(shaded, PAPER), shaded, alpha))

    def save(self, folder: Path) -> list[Path]:
        """Write mesh (``head.obj``, ``.mtl``, ``.png``), ``landmarks.json``, ``code.json``, pictures."""
        folder.mkdir(parents=True, exist_ok=True)
        write_obj(folder / "head.obj", self.mesh)
        (folder / "landmarks.json").write_text(json.dumps(self._landmark_record(), indent=1))
        (folder / "code.json").write_text(json.dumps(code_record(self.batch.code), indent=1))
        Image.fromarray(self.overlay()).save(folder / "overlay.png")
        write_video(folder / "turntable.mp4", self.turntable(), TURN_FPS, comment=COMMENT)
        return sorted(folder.iterdir())

    def _landmark_record(self) -> dict[str, object]:
        return {
            "points": np.round(self.landmarks, 3).tolist(),
            "points_order": "68 iBUG points, x and y in px of the upright photo, 0 is its left or top edge",
            "square": dict(zip(("x", "y", "side"), map(float, self.square), strict=True)),
            "photo": {"width": self.photo.shape[1], "height": self.photo.shape[0]},
        }


def code_record(code: HeadCode) -> dict[str, list[float]]:
    """The head's parameters as plain numbers; batch 1."""
    return {field.name: getattr(code, field.name)[0].float().tolist() for field in fields(code)}


def _shaded(tdmm: Tdmm, geometry: HeadGeometry, albedo: Tensor | None, size: int) -> tuple[Tensor, Tensor]:
    """Heads lit from the viewer (B, 3, size, size), and where they are (B, 1, size, size).

    Grey where the texture has no face, and everywhere without a texture.
    """
    with torch.inference_mode():
        side = render_side(geometry, tdmm.surface, size, make_rasterizer("native"))
        colour = torch.full_like(side.normals, CLAY)
        if albedo is not None:
            # The albedo has been multiplied by the mask already; outside of both is clay, too.
            place = side.uv.permute(0, 2, 3, 1)
            mask = warp(tdmm.uv_face_eye_mask.expand(len(albedo), -1, -1, -1), place)
            colour = warp(albedo, place) + CLAY * (1 - mask)
        light = 0.35 + 0.65 * (-side.normals[:, 2:]).clamp(0, 1)
        return colour * light, side.alpha


def _about_y(angles: Tensor) -> Tensor:
    """Rotations (N, 3, 3) about the vertical axis."""
    sine, cosine = angles.sin(), angles.cos()
    zero, one = torch.zeros_like(angles), torch.ones_like(angles)
    rows = [cosine, zero, sine, zero, one, zero, -sine, zero, cosine]
    return torch.stack(rows, dim=1).reshape(-1, 3, 3)


def _to_photo(points: NDArray[np.float64], square: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    x, y, side = square
    placed: NDArray[np.float64] = points * (side / size) + np.array([x - side / 2, y - side / 2])
    return placed
