"""3D reconstruction: the table of every frame, and files that other programs read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from safa.data.clip_store import ClipStore
from safa.inference.mesh import Mesh, MeshTable, export_mesh, mesh_of, reconstruct_heads, write_obj, write_ply
from safa.inference.model_runner import ModelRunner
from safa.models.safa import Safa
from safa.models.tdmm import heads_of

DAN = "dan#v#000000#000006"


def cube_corner() -> Mesh:
    """Three vertices, two faces of other winding, four texture positions."""
    return Mesh(
        vertices=np.array([[0, 0, 0], [0.1, 0, 0], [0, 0.25, -0.5]], np.float32),
        faces=np.array([[0, 1, 2], [2, 1, 0]]),
        uv=np.array([[0, 0], [1, 0], [0, 1], [0.5, 0.5]], np.float32),
        uv_faces=np.array([[0, 1, 2], [3, 1, 0]]),
        texture=np.full((4, 4, 3), (200, 10, 30), np.uint8),
    )


def test_obj_with_material_and_texture(tmp_path: Path) -> None:
    write_obj(tmp_path / "head.obj", cube_corner())
    lines = (tmp_path / "head.obj").read_text().splitlines()
    assert [line for line in lines if line.startswith("v ")][2] == "v 0.000000 0.250000 -0.500000"
    assert [line for line in lines if line.startswith("vt ")][3] == "vt 0.500000 0.500000"
    assert [line for line in lines if line.startswith("f ")] == ["f 1/1 2/2 3/3", "f 3/4 2/2 1/1"]
    assert "mtllib head.mtl" in lines
    assert "map_Kd head.png" in (tmp_path / "head.mtl").read_text()
    with Image.open(tmp_path / "head.png") as texture:
        assert texture.getpixel((0, 0)) == (200, 10, 30)


def test_ply_reads_back(tmp_path: Path) -> None:
    mesh = cube_corner()
    write_ply(tmp_path / "head.ply", mesh)
    header, _, body = (tmp_path / "head.ply").read_bytes().partition(b"end_header\n")
    assert b"element vertex 3\n" in header
    assert b"element face 2\n" in header
    np.testing.assert_array_equal(np.frombuffer(body[:36], "<f4").reshape(3, 3), mesh.vertices)
    faces = np.frombuffer(body[36:], dtype=[("count", "u1"), ("corners", "<i4", 3)])
    assert faces["count"].tolist() == [3, 3]
    np.testing.assert_array_equal(faces["corners"], mesh.faces)


def test_only_the_formats_asked_for(tmp_path: Path) -> None:
    export_mesh(cube_corner(), tmp_path / "frame000001", ["ply"])
    assert [path.name for path in tmp_path.iterdir()] == ["frame000001.ply"]


@torch.no_grad()
def test_the_table_has_every_frame_in_order(model: Safa, tiny_clips: Path, tmp_path: Path) -> None:
    frames = ClipStore(tiny_clips).frames(DAN, range(6))
    runner = ModelRunner(model, batch_size=4)
    with MeshTable(tmp_path / "mesh.parquet") as table:
        for batch in reconstruct_heads(runner, frames):
            table.add(batch)
    rows = pq.read_table(tmp_path / "mesh.parquet").to_pylist()
    assert [row["frame"] for row in rows] == list(range(6))
    image = runner.to_batch([frames[5]])
    code = model.tdmm.estimate(image).code
    geometry = model.tdmm.geometry(code)
    last = rows[5]
    assert last["shape"] == pytest.approx(code.shape[0].tolist(), abs=1e-4)
    assert last["jaw"] == pytest.approx(code.jaw[0].tolist(), abs=1e-4)
    points = np.array(last["landmarks"]).reshape(68, 2)
    np.testing.assert_allclose(points, geometry.landmarks[0, :, :2] * 16 + 16, atol=5e-2)
    # The stored vertices, seen by the stored camera, are those on the screen.
    vertices = np.array(last["vertices"]).reshape(-1, 3)
    seen = (vertices[:, :2] + last["translation"]) * last["scale"] * np.array([1, -1])
    np.testing.assert_allclose(seen, geometry.vertices[0, :, :2], atol=1e-3)


@torch.no_grad()
def test_a_mesh_keeps_texture_positions_where_they_were(model: Safa, tiny_clips: Path) -> None:
    image = ModelRunner(model).to_batch(ClipStore(tiny_clips).frames(DAN, [0]))
    mesh = mesh_of(model.tdmm, heads_of(model.tdmm, image), 0)
    assert mesh.faces.shape == mesh.uv_faces.shape
    assert mesh.uv_faces.max() == len(mesh.uv) - 1
    assert mesh.uv.min() >= 0
    assert mesh.uv.max() <= 1
    assert mesh.texture.shape == (16, 16, 3)
