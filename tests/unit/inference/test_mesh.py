"""3D reconstruction: the table of every frame, and files that other programs read."""

from __future__ import annotations

import io
import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from safa.data.clip_store import ClipStore
from safa.head.raster import make_rasterizer
from safa.head.render import render_side
from safa.inference import head_texture
from safa.inference import mesh as mesh_module
from safa.inference.face_crop import crop_face
from safa.inference.glb_file import write_glb
from safa.inference.head_texture import UNSEEN, filled
from safa.inference.mesh import (
    Head,
    Mesh,
    MeshTable,
    export_mesh,
    mesh_of,
    reconstruct_heads,
    write_obj,
    write_ply,
)
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


def _glb(path: Path) -> tuple[dict[str, Any], bytes]:
    """The scene and the binary chunk of a file, whose sizes are checked."""
    data = path.read_bytes()
    assert struct.unpack("<4sII", data[:12]) == (b"glTF", 2, len(data))
    length, kind = struct.unpack("<I4s", data[12:20])
    assert (length % 4, kind) == (0, b"JSON")
    size, kind = struct.unpack("<I4s", data[20 + length : 28 + length])
    assert (size % 4, kind, 28 + length + size) == (0, b"BIN\0", len(data))
    return json.loads(data[20 : 20 + length]), data[28 + length :]


def test_glb_reads_back(tmp_path: Path) -> None:
    """The two faces share vertices; one of these has two places on the texture."""
    mesh = cube_corner()
    write_glb(tmp_path / "head.glb", mesh.vertices, mesh.faces, mesh.uv, mesh.uv_faces, mesh.texture)
    scene, binary = _glb(tmp_path / "head.glb")

    def values(name: str, dtype: str) -> np.ndarray:
        accessors, primitive = scene["accessors"], scene["meshes"][0]["primitives"][0]
        accessor = accessors[primitive["indices"] if name == "indices" else primitive["attributes"][name]]
        view = scene["bufferViews"][accessor["bufferView"]]
        part = binary[view["byteOffset"] : view["byteOffset"] + view["byteLength"]]
        return np.frombuffer(part, dtype).reshape(accessor["count"], -1)

    corners = values("indices", "<u4").ravel()
    np.testing.assert_array_equal(values("POSITION", "<f4")[corners], mesh.vertices[mesh.faces].reshape(6, 3))
    uv = mesh.uv[mesh.uv_faces].reshape(6, 2)  # (F, 3, 2) -> (3 F, 2)
    np.testing.assert_array_equal(values("TEXCOORD_0", "<f4")[corners], np.stack([uv[:, 0], 1 - uv[:, 1]], 1))
    np.testing.assert_allclose(np.linalg.norm(values("NORMAL", "<f4"), axis=1), 1, rtol=1e-6)
    assert len(values("POSITION", "<f4")) == 4
    assert scene["accessors"][0]["max"] == [pytest.approx(0.1), 0.25, 0.0]
    view = scene["bufferViews"][scene["images"][0]["bufferView"]]
    with Image.open(io.BytesIO(binary[view["byteOffset"] :][: view["byteLength"]])) as texture:
        assert texture.getpixel((0, 0)) == (200, 10, 30)


def test_what_nobody_has_seen_takes_colours_from_around() -> None:
    colour, seen = torch.zeros(1, 3, 16, 16), torch.zeros(1, 1, 16, 16)
    colour[..., :4, :4], seen[..., :4, :4] = 0.8, 1
    colour[..., 12:, 12:], seen[..., 12:, 12:] = 0.2, 1
    found = filled(colour, seen)
    assert (found[seen.expand_as(found) == 1] == colour[seen.expand_as(found) == 1]).all()
    assert found.min() > 0.19
    assert found[0, 0, 5, 5] > 0.65
    assert found[0, 0, 10, 10] < 0.35
    assert filled(colour, torch.zeros_like(seen)).unique().tolist() == [pytest.approx(UNSEEN)]


@pytest.fixture
def head(model: Safa, monkeypatch: pytest.MonkeyPatch) -> Head:
    """A head in a photo of 90 x 80 px, red on the left and blue on the right."""
    monkeypatch.setattr(head_texture, "TEXTURE_SIZE", 64)
    monkeypatch.setattr(mesh_module, "PICTURE_SIZE", 48)
    monkeypatch.setattr(mesh_module, "TURNTABLE_SIZE", 48)
    monkeypatch.setattr(mesh_module, "TURNTABLE_FRAMES", 2)
    photo = np.zeros((80, 90, 3), np.uint8)
    photo[:, :45], photo[:, 45:] = (250, 20, 20), (20, 20, 250)
    box = (45.0, 40.0, 80.0)
    with torch.inference_mode():
        batch = heads_of(model.tdmm, ModelRunner(model).to_batch([crop_face(photo, box, 32)]))
    return Head(photo, box, batch, model.tdmm)


def test_a_heads_texture_is_that_of_the_photo(head: Head) -> None:
    texture = head.mesh.texture
    assert texture.shape == (64, 64, 3)
    assert head.mesh.texture is texture  # it is made once
    assert texture[..., 1].max() < 60  # nothing is grey, and nothing is left black:
    assert texture.max(-1).min() > 100
    assert (texture[..., 0] > 200).any()
    assert (texture[..., 2] > 200).any()


def test_background_at_the_rim_of_a_head_that_is_too_large_is_not_read(head: Head) -> None:
    """The person is red, before green, and a little smaller than the head that was fitted."""
    geometry, size = head.batch.geometry, head_texture.RIM_SIZE
    alpha = render_side(geometry, head.tdmm.surface, size, make_rasterizer("native")).alpha
    gap = round(float(alpha[0, 0].amax(dim=0).sum()) * head_texture.RIM / 2)
    person = 1 - F.max_pool2d(1 - alpha, 2 * gap + 1, 1, gap)
    image = torch.cat([person, 1 - person, torch.zeros_like(person)], dim=1)
    read = head_texture._not_background(image, head.tdmm, geometry)
    assert person.sum() > 0
    assert read[person == 1].min() == 1
    assert read[(alpha == 1) & (person == 0)].max() == 0


def test_depth_and_normals_are_pictures_of_the_head(head: Head) -> None:
    depth, normals = head.depth_and_normals()
    assert (depth.shape, normals.shape) == ((48, 48), (48, 48, 3))
    assert depth.max() == 255
    assert depth[depth > 0].min() == 1
    axes = normals[depth > 0].astype(float) / 127.5 - 1
    assert np.median(np.linalg.norm(axes, axis=1)) == pytest.approx(1, abs=0.1)
    assert not normals[depth == 0].any()


def test_edges_of_pictures_are_smooth(head: Head, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between a head, whose normals are as long as 1, and nothing, pixels are partly covered."""

    def partly_covered() -> int:
        _, normals = replace(head).depth_and_normals()
        lengths = np.linalg.norm(normals.astype(float) / 127.5 - 1, axis=2)
        return int((normals.any(axis=2) & (abs(lengths - 1) > 0.1)).sum())

    smooth = partly_covered()
    monkeypatch.setattr(mesh_module, "SAMPLES", 1)
    assert partly_covered() == 0 < smooth


def test_all_files_of_a_head(head: Head, tmp_path: Path) -> None:
    files = {path.name for path in head.save(tmp_path / "head")}
    assert files == {
        *("head.obj", "head.mtl", "head.png", "head.ply", "head.glb", "landmarks.json", "landmarks.npz"),
        *("code.json", "code.npz", "overlay.png", "depth.png", "normals.png", "turntable.mp4"),
    }
    with np.load(tmp_path / "head" / "landmarks.npz") as stored:
        np.testing.assert_array_equal(stored["points"], head.landmarks)
    code = json.loads((tmp_path / "head" / "code.json").read_text())
    with np.load(tmp_path / "head" / "code.npz") as stored:
        assert {name: stored[name].tolist() for name in stored} == code


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
