"""3D reconstruction: heads of a stream of frames as meshes, and one head of a photo with all its files.

Vertices are in model space: metres, posed, y up, x to the subject's left, z towards the viewer, before any
camera. Meshes are written as one Parquet table for all frames, or as files that other programs open.
Source: SAFA (Wang et al., 2021), section 3.1; docs/model.md, section 8.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from safa.data.video import write_video
from safa.files import check_folder
from safa.geometry.grids import warp
from safa.head.model import HeadCode, HeadGeometry
from safa.head.raster import make_rasterizer
from safa.head.render import RenderedSide, render_side
from safa.inference.face_crop import CropBox, crop_face
from safa.inference.glb_file import write_glb
from safa.inference.head_texture import photo_texture
from safa.inference.model_runner import ModelRunner
from safa.inference.video_output import COMMENT, output_path
from safa.models.tdmm import HeadBatch, Tdmm, heads_of
from safa.visualize.images import RgbImage, from_tensor, side_by_side
from safa.visualize.overlays import ESTIMATED, with_landmarks

MATERIAL = "head"
FLOAT_DIGITS = 6  # of OBJ text: micrometres
PICTURE_SIZE, SAMPLES = 512, 2  # px, side of overlay, depth and normals; samples of a pixel along it
TURNTABLE_SIZE = 384  # px
TURNTABLE_FRAMES, TURNTABLE_FPS = 72, 24.0  # one turn in three seconds
TURNTABLE_BATCH = 12  # frames rendered at once
CLAY = 0.62  # grey of a head without texture
FILL = 0.9  # share of the turntable's width that the head takes
BACKGROUND = 0.12  # grey behind the turntable

_LISTS = ("shape", "expression", "rotation", "jaw", "scale", "translation")
MESH_SCHEMA = pa.schema(  # one row per frame
    [
        ("frame", pa.int32()),
        *((name, pa.list_(pa.float32())) for name in _LISTS),
        ("landmarks", pa.list_(pa.float32())),  # 68 x, y in px of the stored frame
        ("vertices", pa.list_(pa.float32())),  # V x, y, z in metres, model space
    ]
)


@dataclass(frozen=True)
class Mesh:
    """One textured mesh.

    Attributes:
        vertices: (V, 3) metres.
        faces: (F, 3) vertex numbers, counted from 0.
        uv: (T, 2) in [0, 1], origin at the lower left.
        uv_faces: (F, 3) numbers into ``uv``.
        texture: (H, W, 3); its first row is v = 1.
    """

    vertices: NDArray[np.float32]
    faces: NDArray[np.int64]
    uv: NDArray[np.float32]
    uv_faces: NDArray[np.int64]
    texture: RgbImage

    def __repr__(self) -> str:
        height, width = self.texture.shape[:2]
        return f"Mesh({len(self.vertices)} vertices, {len(self.faces)} faces, texture {width} x {height} px)"


# ---- from frames to heads ----------------------------------------------------------------------------------


def reconstruct_heads(runner: ModelRunner, frames: Iterable[RgbImage]) -> Iterator[HeadBatch]:
    """Fit the 3D head to every frame (S, S, 3) uint8; batches come out in order."""
    for image in runner.batches(frames):
        with runner.autocast():
            heads = heads_of(runner.model.tdmm, image)
        yield heads


def mesh_of(tdmm: Tdmm, batch: HeadBatch, i: int) -> Mesh:
    """Return the textured mesh of frame ``i`` of a batch."""
    uv = tdmm.uvcoords[0, :, :2].cpu().numpy()
    return Mesh(
        vertices=batch.vertices[i].cpu().numpy(),
        faces=tdmm.faces[0].cpu().numpy(),
        uv=np.stack([(uv[:, 0] + 1) / 2, (1 - uv[:, 1]) / 2], axis=1),
        uv_faces=tdmm.uvfaces[0].cpu().numpy(),
        texture=from_tensor(batch.albedo[i]),
    )


class MeshTable:
    """A Parquet file with one row per frame (``MESH_SCHEMA``), written batch by batch.

    It is a context manager; the file is complete when it closes. Head topology (``faces``, ``uv``) is the
    same for all frames and stands in the OBJ files.

    Args:
        first: number of the first frame.
    """

    def __init__(self, path: Path, first: int = 0) -> None:
        self._writer = pq.ParquetWriter(path, MESH_SCHEMA, compression="zstd")
        self._count = first

    def add(self, batch: HeadBatch) -> None:
        """Write the next frames as one row group."""
        columns = {name: getattr(batch.code, name) for name in _LISTS}
        columns |= {"landmarks": batch.landmarks, "vertices": batch.vertices}
        frames = pa.array(range(self._count, self._count + len(batch)), pa.int32())
        arrays = [frames, *(_lists(columns[name]) for name in MESH_SCHEMA.names[1:])]
        self._writer.write_table(pa.Table.from_arrays(arrays, schema=MESH_SCHEMA))
        self._count += len(batch)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()


# ---- files -------------------------------------------------------------------------------------------------


def export_mesh(mesh: Mesh, stem: Path, formats: Sequence[Literal["obj", "ply"]]) -> None:
    """Write one file per format: ``stem`` with the format as its suffix."""
    if "obj" in formats:
        write_obj(stem.with_suffix(".obj"), mesh)
    if "ply" in formats:
        write_ply(stem.with_suffix(".ply"), mesh)


def write_obj(path: Path, mesh: Mesh) -> None:
    """Write a Wavefront OBJ, and beside it its ``.mtl`` and ``.png`` of the same name."""
    stem = path.stem
    lines = [f"mtllib {stem}.mtl", f"usemtl {MATERIAL}"]
    lines += [
        f"v {x:.{FLOAT_DIGITS}f} {y:.{FLOAT_DIGITS}f} {z:.{FLOAT_DIGITS}f}" for x, y, z in mesh.vertices
    ]
    lines += [f"vt {u:.{FLOAT_DIGITS}f} {v:.{FLOAT_DIGITS}f}" for u, v in mesh.uv]
    corners = np.stack([mesh.faces, mesh.uv_faces], axis=-1) + 1  # OBJ counts from 1
    lines += ["f " + " ".join(f"{v}/{t}" for v, t in face) for face in corners.tolist()]
    path.write_text("\n".join(lines) + "\n", encoding="ascii")
    material = f"newmtl {MATERIAL}\nKa 1 1 1\nKd 1 1 1\nKs 0 0 0\nillum 1\nmap_Kd {stem}.png\n"
    path.with_suffix(".mtl").write_text(material, encoding="ascii")
    Image.fromarray(mesh.texture).save(path.with_suffix(".png"))


def write_ply(path: Path, mesh: Mesh) -> None:
    """Write vertices and faces as binary little-endian PLY, without texture."""
    header = (
        f"ply\nformat binary_little_endian 1.0\nelement vertex {len(mesh.vertices)}\n"
        "property float x\nproperty float y\nproperty float z\n"
        f"element face {len(mesh.faces)}\nproperty list uchar int vertex_indices\nend_header\n"
    )
    faces = np.zeros(len(mesh.faces), dtype=[("count", "u1"), ("corners", "<i4", 3)])
    faces["count"], faces["corners"] = 3, mesh.faces
    path.write_bytes(header.encode("ascii") + mesh.vertices.astype("<f4").tobytes() + faces.tobytes())


def _lists(values: Tensor) -> pa.Array:
    """Convert (B, ...) to one list of float32 per row."""
    flat = values.detach().float().flatten(1).cpu().numpy()
    ends = pa.array(np.arange(len(flat) + 1) * flat.shape[1], pa.int32())
    return pa.ListArray.from_arrays(ends, pa.array(flat.ravel()))


# ---- one head ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Head:
    """A head that was reconstructed from one photo.

    Attributes:
        photo: (H, W, 3).
        crop_box: (3,) px of the photo: the part that the model saw.
        batch: the reconstruction, batch 1.
        tdmm: the 3D head model.
    """

    photo: RgbImage
    crop_box: CropBox
    batch: HeadBatch
    tdmm: Tdmm

    def __repr__(self) -> str:
        height, width = self.photo.shape[:2]
        return f"Head({self.batch.vertices.shape[1]} vertices, face of a photo of {width} x {height} px)"

    @property
    def landmarks(self) -> NDArray[np.float64]:
        """The 68 landmarks (68, 2) px of the photo, continuous: 0 is its left or top edge."""
        points = self.batch.landmarks[0].double().cpu().numpy()
        return _to_photo(points, self.crop_box, self.batch.image.shape[-1])

    @cached_property
    def mesh(self) -> Mesh:
        """The mesh in metres, with a texture of the photo's own resolution and without holes."""
        texture = photo_texture(self.photo, self.crop_box, self.tdmm, self.batch.geometry)
        return replace(mesh_of(self.tdmm, self.batch, 0), texture=texture)

    @cached_property
    def _side(self) -> RenderedSide:
        """The head as the photo's crop shows it, with SAMPLES samples along each pixel of a picture."""
        return _rendered(self.tdmm, self.batch.geometry, SAMPLES * PICTURE_SIZE)

    def overlay(self) -> RgbImage:
        """Draw the face and, beside it, the shaded head with the 68 landmarks over the face."""
        face = crop_face(self.photo, self.crop_box, PICTURE_SIZE)
        shaded, alpha = _averaged(_lit(self._side, None), self._side.alpha)
        blend = torch.from_numpy(face.copy()).permute(2, 0, 1).float() / 255
        over = from_tensor(torch.lerp(blend, shaded[0].cpu(), 0.6 * alpha[0].cpu()))
        points = self.batch.landmarks[0].cpu().numpy() * (PICTURE_SIZE / self.batch.image.shape[-1])
        return side_by_side([face, with_landmarks(over, [(points, ESTIMATED)], PICTURE_SIZE)])

    def depth_and_normals(self) -> tuple[NDArray[np.uint8], RgbImage]:
        """Draw the head as the photo's crop shows it.

        Returns:
            Depth (PICTURE_SIZE, PICTURE_SIZE), 255 nearest, 1 farthest, 0 where no head is; and normals
            (PICTURE_SIZE, PICTURE_SIZE, 3): x to the right, y up, z towards the viewer, [-1, 1] as 0 to 255.
        """
        side = self._side
        with torch.inference_mode():
            away, alpha = _averaged(side.fragments.zbuf[None], side.alpha)
            seen = alpha[0, 0] > 0
            depth = torch.zeros_like(away[0, 0])
            if seen.any():
                nearest, farthest = away[0, 0][seen].aminmax()
                depth[seen] = 1 + 254 * (farthest - away[0, 0][seen]) / (farthest - nearest).clamp(min=1e-6)
            normals = F.normalize(_averaged(side.normals, side.alpha)[0], dim=1)
            axes = normals.new_tensor([1, -1, -1])[:, None, None]  # screen: y down, z away
            normals = (normals[0] * axes + 1) / 2 * alpha[0]
        return depth.round().byte().cpu().numpy(), from_tensor(normals)

    def turntable(self) -> Iterator[RgbImage]:
        """Yield frames (TURNTABLE_SIZE, TURNTABLE_SIZE, 3) of the textured head in one full turn."""
        vertices = self.batch.geometry.vertices
        middle = (vertices.amax(1, keepdim=True) + vertices.amin(1, keepdim=True)) / 2
        centred = vertices - middle
        centred = centred * (FILL / centred.norm(dim=-1).amax())
        # (T, T, 3) -> (1, 3, T, T)
        texture = torch.from_numpy(self.mesh.texture.copy()).permute(2, 0, 1)[None].to(centred) / 255
        angles = torch.arange(TURNTABLE_FRAMES) * (2 * math.pi / TURNTABLE_FRAMES)
        for part in torch.split(angles, TURNTABLE_BATCH):
            turned = centred @ _about_y(part).to(centred).transpose(1, 2)
            geometry = HeadGeometry(turned, turned[:, :68], turned[:, :68])
            side = _rendered(self.tdmm, geometry, TURNTABLE_SIZE)
            shaded = _lit(side, texture.expand(len(part), -1, -1, -1))
            yield from map(from_tensor, torch.lerp(torch.full_like(shaded, BACKGROUND), shaded, side.alpha))

    def save(self, folder: str | Path) -> list[Path]:
        """Write the mesh (``head.obj`` with ``.mtl`` and ``.png``, ``head.ply``, ``head.glb``), landmarks and
        parameters (``.json`` and ``.npz``), and pictures: overlay, depth, normals and turntable.

        Returns:
            The paths of all files in the folder.

        Raises:
            UserError: the folder is no path, or cannot be made.
        """
        folder = output_path(folder)
        check_folder(folder)
        mesh = self.mesh
        export_mesh(mesh, folder / "head", ("obj", "ply"))
        write_glb(folder / "head.glb", mesh.vertices, mesh.faces, mesh.uv, mesh.uv_faces, mesh.texture)
        code = code_record(self.batch.code)
        (folder / "landmarks.json").write_text(json.dumps(self._landmark_record(), indent=1))
        (folder / "code.json").write_text(json.dumps(code, indent=1))
        box = np.array(self.crop_box, np.float64)
        np.savez(folder / "landmarks.npz", points=self.landmarks, crop_box=box)
        arrays: dict[str, Any] = {name: np.array(value, np.float32) for name, value in code.items()}
        np.savez(folder / "code.npz", **arrays)
        depth, normals = self.depth_and_normals()
        for name, picture in (("overlay", self.overlay()), ("depth", depth), ("normals", normals)):
            Image.fromarray(picture).save(folder / f"{name}.png")
        write_video(folder / "turntable.mp4", self.turntable(), TURNTABLE_FPS, comment=COMMENT)
        return sorted(folder.iterdir())

    def _landmark_record(self) -> dict[str, object]:
        return {
            "points": np.round(self.landmarks, 3).tolist(),
            "points_order": "68 iBUG points, x and y in px of the upright photo, 0 is its left or top edge",
            "crop_box": dict(zip(("x", "y", "side"), map(float, self.crop_box), strict=True)),
            "photo": {"width": self.photo.shape[1], "height": self.photo.shape[0]},
        }


def code_record(code: HeadCode) -> dict[str, list[float]]:
    """Return the head's parameters (batch 1) as plain numbers."""
    return {field.name: getattr(code, field.name)[0].float().tolist() for field in fields(code)}


@torch.inference_mode()
def _rendered(tdmm: Tdmm, geometry: HeadGeometry, size: int) -> RenderedSide:
    return render_side(geometry, tdmm.surface, size, make_rasterizer("native"))


def _lit(side: RenderedSide, texture: Tensor | None) -> Tensor:
    """Colour heads (B, 3, size, size), lit from the viewer.

    Args:
        texture: (B, 3, T, T); None: heads are grey.
    """
    with torch.inference_mode():
        colour = torch.full_like(side.normals, CLAY)
        if texture is not None:
            colour = warp(texture, side.uv.permute(0, 2, 3, 1))  # (B, 2, H, W) -> (B, H, W, 2)
        light = 0.35 + 0.65 * (-side.normals[:, 2:]).clamp(0, 1)
        return colour * light


def _averaged(fine: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels of SAMPLES x SAMPLES samples each, for edges that are smooth.

    Args:
        fine: (B, C, SAMPLES S, SAMPLES S); counts where ``alpha`` (B, 1, SAMPLES S, SAMPLES S) is 1.

    Returns:
        Their means (B, C, S, S), and the share of each pixel that is covered (B, 1, S, S).
    """
    covered = F.avg_pool2d(alpha, SAMPLES)
    return F.avg_pool2d(fine * alpha, SAMPLES) / covered.clamp(min=1e-6), covered


def _about_y(angles: Tensor) -> Tensor:
    """Return rotations (N, 3, 3) about the vertical axis by angles (N,) in radians."""
    sine, cosine = angles.sin(), angles.cos()
    zero, one = torch.zeros_like(angles), torch.ones_like(angles)
    rows = [cosine, zero, sine, zero, one, zero, -sine, zero, cosine]
    return torch.stack(rows, dim=1).reshape(-1, 3, 3)


def _to_photo(points: NDArray[np.float64], crop_box: CropBox, size: int) -> NDArray[np.float64]:
    """Convert points (N, 2) from px of a crop of ``size`` px to px of the photo."""
    x, y, side = crop_box
    in_photo: NDArray[np.float64] = points * (side / size) + np.array([x - side / 2, y - side / 2])
    return in_photo
