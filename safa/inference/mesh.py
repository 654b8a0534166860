"""3D reconstruction of a stream of frames: heads and meshes as a table, and as files for other programs.

Vertices are in model space: metres, posed, y up, x to the subject's left, z towards the viewer, before any
camera. Source: SAFA (Wang et al., 2021), section 3.1; MODEL.md, section 8.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from safa.head.model import HeadCode, HeadGeometry, landmarks_px
from safa.head.render import HeadRender
from safa.inference.animator import Animator
from safa.models.tdmm import Tdmm
from safa.pictures.canvas import Picture, from_tensor

MATERIAL = "head"
FLOAT_DIGITS = 6  # of OBJ text: micrometres

# One row per frame.
_LISTS = ("shape", "expression", "rotation", "jaw", "scale", "translation")
MESH_SCHEMA = pa.schema(
    [
        ("frame", pa.int32()),
        *((name, pa.list_(pa.float32())) for name in _LISTS),
        ("landmarks", pa.list_(pa.float32())),  # 68 x, y in px of the stored frame
        ("vertices", pa.list_(pa.float32())),  # V x, y, z in metres, model space
    ]
)


@dataclass(frozen=True)
class HeadBatch:
    """Some consecutive frames and the heads found in them.

    Attributes:
        image: (B, 3, S, S) in [0, 1].
        code: parameters, (B, ...).
        geometry: on the screen.
        vertices: (B, V, 3) in model space, metres.
        landmarks: (B, 68, 2) px of the frames.
        albedo: (B, 3, uv, uv) in [0, 1], texture with the eyes.
        render: the textured head in its own pose.
    """

    image: Tensor
    code: HeadCode
    geometry: HeadGeometry
    vertices: Tensor
    landmarks: Tensor
    albedo: Tensor
    render: HeadRender

    def __len__(self) -> int:
        return len(self.image)


@dataclass(frozen=True)
class Mesh:
    """One textured mesh.

    Attributes:
        vertices: (V, 3) metres.
        faces: (F, 3) vertex numbers, counted from 0.
        uv: (T, 2) in [0, 1], origin at the lower left.
        uv_faces: (F, 3) numbers into ``uv``.
        texture: picture; its first row is v = 1.
    """

    vertices: NDArray[np.float32]
    faces: NDArray[np.int64]
    uv: NDArray[np.float32]
    uv_faces: NDArray[np.int64]
    texture: Picture


def reconstruct_heads(animator: Animator, frames: Iterable[Picture]) -> Iterator[HeadBatch]:
    """Find the head in every frame (S, S, 3) uint8; frames pass in batches and come out in order."""
    for image in animator.batches(frames):
        yield heads_of(animator.model.tdmm, image)


@torch.inference_mode()
def heads_of(tdmm: Tdmm, image: Tensor) -> HeadBatch:
    """The heads in a batch of images (B, 3, S, S) in [0, 1]."""
    code = tdmm.estimate(image).code
    geometry = tdmm.geometry(code)
    albedo = tdmm.texture(image, geometry, with_eyes=True)
    vertices = tdmm.flame.vertices_in_model_space(code.shape, code.expression, code.rotation, code.jaw)
    landmarks = landmarks_px(geometry, image.shape[-1])
    side = tdmm.render_side(geometry)
    return HeadBatch(image, code, geometry, vertices, landmarks, albedo, tdmm.render(side, geometry, albedo))


def mesh_of(tdmm: Tdmm, batch: HeadBatch, i: int) -> Mesh:
    """Frame ``i`` of a batch, ready to be written."""
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

    Use as a context; the file is complete when it closes. Head topology (``faces``, ``uv``) is the same for
    all frames and stands in the OBJ files.
    """

    def __init__(self, path: Path) -> None:
        self._writer = pq.ParquetWriter(path, MESH_SCHEMA, compression="zstd")
        self._count = 0

    def add(self, batch: HeadBatch) -> None:
        """The next frames, one row group."""
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


def export_mesh(mesh: Mesh, stem: Path, formats: Sequence[Literal["obj", "ply"]]) -> None:
    """Write ``stem`` with the ending of each format."""
    if "obj" in formats:
        write_obj(stem.with_suffix(".obj"), mesh)
    if "ply" in formats:
        write_ply(stem.with_suffix(".ply"), mesh)


def write_obj(path: Path, mesh: Mesh) -> None:
    """Wavefront OBJ with its ``.mtl`` and ``.png`` of the same name beside it."""
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
    """Binary little-endian PLY: vertices and faces, without texture."""
    header = (
        f"ply\nformat binary_little_endian 1.0\nelement vertex {len(mesh.vertices)}\n"
        "property float x\nproperty float y\nproperty float z\n"
        f"element face {len(mesh.faces)}\nproperty list uchar int vertex_indices\nend_header\n"
    )
    faces = np.zeros(len(mesh.faces), dtype=[("count", "u1"), ("corners", "<i4", 3)])
    faces["count"], faces["corners"] = 3, mesh.faces
    path.write_bytes(header.encode("ascii") + mesh.vertices.astype("<f4").tobytes() + faces.tobytes())


def _lists(values: Tensor) -> pa.Array:
    """(B, ...) as one list of float32 per row."""
    flat = values.detach().float().flatten(1).cpu().numpy()
    ends = pa.array(np.arange(len(flat) + 1) * flat.shape[1], pa.int32())
    return pa.ListArray.from_arrays(ends, pa.array(flat.ravel()))
