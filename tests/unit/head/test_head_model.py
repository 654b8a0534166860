"""Blend skinning, landmarks and camera against loops straight from the equations."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor
from torch.autograd import gradcheck

from safa.head.assets import HeadAssets
from safa.head.flame_files import FlameFiles, read_head_assets
from safa.head.model import RAW_SIZE, HeadCode, HeadModel, landmarks_px, weak_perspective


def _random_code(batch: int, dtype: torch.dtype = torch.float32) -> HeadCode:
    rng = torch.Generator().manual_seed(0)
    return HeadCode.from_raw(torch.randn(batch, RAW_SIZE, generator=rng, dtype=dtype))


@pytest.fixture(scope="module")
def model(toy_head: HeadAssets) -> HeadModel:
    return HeadModel(toy_head)


def test_vertices_equal_their_naive_twin(toy_head: HeadAssets) -> None:
    model = HeadModel(toy_head).double()
    with torch.no_grad():
        model.neck_pose.fill_(0.2)
        model.eye_pose.fill_(-0.1)
    code = _random_code(2, torch.float64)
    ours = model.vertices_in_model_space(code.shape, code.expression, code.rotation, code.jaw)
    for b in range(2):
        pose = torch.cat([code.rotation[b], model.neck_pose[0], code.jaw[b], model.eye_pose[0]])
        naive = _naive_skinning(toy_head, code.shape[b], code.expression[b], pose.detach())
        np.testing.assert_allclose(ours[b].detach(), naive, atol=1e-7)


def _naive_skinning(head: HeadAssets, shape: Tensor, expression: Tensor, pose: Tensor) -> np.ndarray:
    arrays = {f.name: getattr(head, f.name).double().numpy() for f in dataclasses.fields(head)}
    vertices = arrays["v_template"].copy()
    for k in range(100):
        vertices += arrays["shapedirs"][:, :, k] * float(shape[k])
    for k in range(50):
        vertices += arrays["expressiondirs"][:, :, k] * float(expression[k])
    joints = arrays["J_regressor"] @ vertices
    rotations = [Rotation.from_rotvec(pose[3 * j : 3 * j + 3].numpy()).as_matrix() for j in range(5)]
    features = np.concatenate([(rotations[j] - np.eye(3)).ravel() for j in range(1, 5)])
    for k in range(36):
        vertices = vertices + arrays["posedirs"][:, :, k] * features[k]
    posed = np.zeros_like(vertices)
    for j in range(5):
        # Carry the vertices through joint j, then through each of its ancestors.
        moved, joint = vertices, j
        while joint >= 0:
            moved = (moved - joints[joint]) @ rotations[joint].T + joints[joint]
            joint = int(head.parents[joint])
        posed += arrays["lbs_weights"][:, j : j + 1] * moved
    return posed


def test_landmarks_lie_where_their_faces_say(toy_head: HeadAssets, model: HeadModel) -> None:
    code = _random_code(1).replace(rotation=torch.zeros(1, 3))
    geometry = model(code)
    faces = torch.cat([toy_head.dynamic_lmk_faces[0], toy_head.static_lmk_faces])
    bary = torch.cat([toy_head.dynamic_lmk_bary[0], toy_head.static_lmk_bary])
    for ours, at, weights in (
        (geometry.landmarks, faces, bary),
        (geometry.landmarks3d, toy_head.full_lmk_faces, toy_head.full_lmk_bary),
    ):
        for n in range(68):
            corners = geometry.vertices[0, toy_head.faces[at[n]]]
            torch.testing.assert_close(ours[0, n], weights[n] @ corners, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("yaw", "row"),
    [(0, 0), (0.4, 0), (-0.4, 0), (1, 1), (25.2, 25), (39, 39), (80, 39), (-1, 40), (-39, 78), (-60, 78)],
)
def test_the_contour_follows_the_yaw(yaw: float, row: int, toy_head: HeadAssets, model: HeadModel) -> None:
    # A turn about y has R[2, 0] = -sin(yaw), so the yaw is the turn itself.
    code = _random_code(1).replace(rotation=torch.tensor([[0.0, math.radians(yaw), 0.0]]))
    geometry = model(code)
    corners = geometry.vertices[0, toy_head.faces[toy_head.dynamic_lmk_faces[row]]]
    expected = (corners * toy_head.dynamic_lmk_bary[row].unsqueeze(-1)).sum(1)
    torch.testing.assert_close(geometry.landmarks[0, :17], expected, atol=1e-5, rtol=1e-5)


def test_neutral_code_is_the_template_seen_by_the_camera(toy_head: HeadAssets, model: HeadModel) -> None:
    geometry = model(HeadCode.from_raw(torch.zeros(1, RAW_SIZE)))
    flipped = toy_head.v_template * torch.tensor([10.0, -10.0, -10.0])
    torch.testing.assert_close(geometry.vertices[0], flipped, atol=1e-5, rtol=1e-5)


def test_the_camera_puts_up_on_top_and_the_face_in_front() -> None:
    up_and_front = torch.tensor([[[0.0, 0.1, 0.05]]])
    seen = weak_perspective(up_and_front, torch.tensor([[8.0]]), torch.tensor([[0.02, 0.0]]))
    torch.testing.assert_close(seen, torch.tensor([[[0.16, -0.8, -0.4]]]))


def test_landmarks_in_pixels_reach_from_0_to_the_size(model: HeadModel) -> None:
    geometry = model(_random_code(1))
    moved = dataclasses.replace(geometry, landmarks=torch.tensor([[[-1.0, 0, 5], [1, 1, 5]]]))
    assert landmarks_px(moved, 64).tolist() == [[[0, 32], [64, 64]]]


def test_the_raw_code_splits_as_published() -> None:
    raw = torch.arange(159.0)[None] / 1000
    code = HeadCode.from_raw(raw)
    parts = {f.name: getattr(code, f.name).shape[1] for f in dataclasses.fields(code)}
    assert parts == {"shape": 100, "expression": 50, "rotation": 3, "jaw": 3, "scale": 1, "translation": 2}
    assert code.rotation[0, 0] == raw[0, 150]
    assert code.scale.item() == pytest.approx(10.156)
    assert code.translation[0, 1].item() == pytest.approx(1 / (1 + np.exp(-0.158)) - 0.5)


def test_a_batch_of_4_equals_4_batches_of_1(model: HeadModel) -> None:
    code = _random_code(4)
    together = model(code)
    for b in range(4):
        part = HeadCode(**{f.name: getattr(code, f.name)[b : b + 1] for f in dataclasses.fields(code)})
        alone = model(part)
        for field in dataclasses.fields(together):
            whole = getattr(together, field.name)[b : b + 1]
            torch.testing.assert_close(whole, getattr(alone, field.name), atol=1e-6, rtol=1e-5)


def test_gradients_are_finite_at_zero_rotation(model: HeadModel) -> None:
    raw = torch.zeros(2, RAW_SIZE, requires_grad=True)
    geometry = model(HeadCode.from_raw(raw))
    (geometry.landmarks.square().sum() + geometry.vertices.sum()).backward()
    assert raw.grad is not None
    assert raw.grad.isfinite().all()
    assert (raw.grad != 0).all()


def test_gradients(toy_head: HeadAssets) -> None:
    model = HeadModel(toy_head).double()
    raw = 0.3 * torch.randn(1, RAW_SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert gradcheck(lambda r: model(HeadCode.from_raw(r)).landmarks, (raw.requires_grad_(),), fast_mode=True)


def test_loading_a_state_dict_leaves_the_assets_alone(toy_head: HeadAssets) -> None:
    model = HeadModel(toy_head)
    before = toy_head.v_template.clone()
    model.load_state_dict({name: torch.zeros_like(value) for name, value in model.state_dict().items()})
    assert torch.equal(toy_head.v_template, before)


@pytest.fixture(scope="module")
def reference_head(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> HeadAssets:
    import gzip

    source, model = golden / "assets", tmp_path_factory.mktemp("flame") / "generic_model.pkl"
    model.write_bytes(gzip.decompress((source / "generic_model.pkl.gz").read_bytes()))
    template, embedding = source / "head_template.obj", source / "landmark_embedding.npy"
    return read_head_assets(FlameFiles(model, template, embedding, source))


@pytest.mark.parametrize("side", ["source", "driving"])
def test_matches_the_reference(side: str, golden: Path, reference_head: HeadAssets) -> None:
    with np.load(golden / "a/tdmm.npz") as file:
        known = {key: torch.from_numpy(file[key]) for key in file.files if key.startswith(side)}
    model = HeadModel(reference_head)
    code = HeadCode.from_raw(known[f"{side}_code"])
    torch.testing.assert_close(torch.cat([code.scale, code.translation], 1), known[f"{side}_cam"])
    torch.testing.assert_close(torch.cat([code.rotation, code.jaw], 1), known[f"{side}_pose"])
    unprojected = model.vertices_in_model_space(code.shape, code.expression, code.rotation, code.jaw)
    torch.testing.assert_close(unprojected, known[f"{side}_verts"], atol=1e-6, rtol=0)
    geometry = model(code)
    torch.testing.assert_close(geometry.vertices, known[f"{side}_transformed_verts"], atol=5e-6, rtol=0)
    torch.testing.assert_close(landmarks_px(geometry, 256), known[f"{side}_landmarks_2d"], atol=2e-4, rtol=0)
    if side == "driving":
        # Recorded before the camera.
        fixed = weak_perspective(known["driving_flame_landmarks3d"], code.scale, code.translation)
        torch.testing.assert_close(geometry.landmarks3d, fixed, atol=5e-6, rtol=0)
