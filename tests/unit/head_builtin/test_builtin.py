"""The built-in head: a sound mesh, sound skinning, expressions that do what their names say."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from safa.head import builtin
from safa.head.assets import HeadAssets
from safa.head.builtin.mesh import build_mesh
from safa.head.builtin.skinning import JOINTS
from safa.head.builtin.surface import EYE, MM
from safa.head.model import HeadCode, HeadModel
from safa.head.raster import rasterize

HEAD = builtin.build()
ASSETS = HEAD.assets
MODEL = HeadModel(ASSETS).eval()
REGIONS = {
    *("skin", "scalp", "brows", "upper_lip", "lower_lip", "mouth_interior", "teeth", "eyeballs"),
    *("iris", "pupil", "eyelids", "lashes", "nostrils", "ears", "neck", "nose", "cheeks", "chin"),
}


def posed(
    expression: Tensor | None = None, jaw: float = 0.0, yaw: float = 0.0, shape: Tensor | None = None
) -> Tensor:
    """(V, 3) of the head in model space."""
    with torch.no_grad():
        return MODEL.vertices_in_model_space(
            torch.zeros(1, 100) if shape is None else shape[None],
            torch.zeros(1, 50) if expression is None else expression[None],
            torch.tensor([[0.0, yaw, 0.0]]),
            torch.tensor([[jaw, 0.0, 0.0]]),
        )[0]


def named(name: str) -> Tensor:
    return torch.from_numpy(HEAD.expressions[name])


def visible_faces(vertices: Tensor, size: int = 200) -> Tensor:
    """Face seen by each pixel that sees one, from the front."""
    screen = vertices * torch.tensor([6.0, -6.0, -6.0]) + torch.tensor([0.0, 0.0, 10.0])
    seen = rasterize(screen[None], ASSETS.faces, size).face_index
    return seen[seen >= 0]


def face_normals(vertices: Tensor) -> Tensor:
    a, b, c = vertices[ASSETS.faces].unbind(1)
    return torch.linalg.cross(b - a, c - a)


def landmarks(vertices: Tensor, row: int = 0) -> Tensor:
    """(68, 3) with the contour of one yaw row."""
    faces = torch.cat([ASSETS.dynamic_lmk_faces[row], ASSETS.static_lmk_faces])
    bary = torch.cat([ASSETS.dynamic_lmk_bary[row], ASSETS.static_lmk_bary])
    return (vertices[ASSETS.faces[faces]] * bary[..., None]).sum(1)


def test_has_the_promised_size_and_passes_its_own_checks() -> None:
    ASSETS.validate()
    assert 2000 <= ASSETS.num_vertices <= 6000
    height, width = (torch.max(ASSETS.v_template, 0)[0] - torch.min(ASSETS.v_template, 0)[0])[[1, 0]]
    assert 0.25 < height < 0.35  # with the neck
    assert 0.14 < width < 0.2


def test_is_built_the_same_every_time() -> None:
    again = builtin.build.__wrapped__()
    for field in dataclasses.fields(HeadAssets):
        assert torch.equal(getattr(again.assets, field.name), getattr(ASSETS, field.name)), field.name
    for name, mask in HEAD.regions.items():
        assert np.array_equal(again.regions[name], mask)
    assert builtin.build() is HEAD


def test_is_mirrored_left_and_right() -> None:
    points = ASSETS.v_template.double()
    distance = torch.cdist(points, points * torch.tensor([-1.0, 1.0, 1.0]).double()).min(1).values
    assert distance.max() < 1e-6


def test_no_face_is_degenerate_and_every_vertex_is_used() -> None:
    assert torch.linalg.norm(face_normals(ASSETS.v_template), dim=1).min() > 1e-9
    assert len(ASSETS.faces.unique()) == ASSETS.num_vertices
    directed = torch.cat([ASSETS.faces[:, [0, 1]], ASSETS.faces[:, [1, 2]], ASSETS.faces[:, [2, 0]]])
    assert len(directed.unique(dim=0)) == len(directed), "two faces run along an edge in the same direction"


@pytest.mark.parametrize("yaw", [0.0, 0.6, -0.6, 1.5, 3.1])
def test_what_one_sees_faces_the_viewer(yaw: float) -> None:
    vertices = posed(yaw=yaw)
    towards = face_normals(vertices)[visible_faces(vertices), 2] > 0
    assert towards.float().mean() > 0.998


def test_texture_islands_do_not_overlap() -> None:
    size = 1024
    assert ASSETS.uv_coords.min() >= 0
    assert ASSETS.uv_coords.max() <= 1
    corners = ASSETS.uv_coords[ASSETS.uv_faces].double()
    (ax, ay), (bx, by) = (corners[:, 1] - corners[:, 0]).T, (corners[:, 2] - corners[:, 0]).T
    area = (ax * by - ay * bx).abs() / 2
    assert (ax * by - ay * bx).min() > 0, "faces turn the same way on the texture as on the head"
    screen = torch.cat([ASSETS.uv_coords * 2 - 1, torch.ones(len(ASSETS.uv_coords), 1)], dim=1)
    covered = (rasterize(screen[None], ASSETS.uv_faces, size).face_index >= 0).double().mean()
    assert area.sum() == pytest.approx(covered.item(), rel=0.005)


def test_masks_cover_the_face_and_differ_by_the_eyes() -> None:
    uv = ASSETS.uv_coords[ASSETS.uv_faces].mean(1)  # (F, 2)
    column = (uv[:, 0] * 256).long().clamp(max=255)
    row = ((1 - uv[:, 1]) * 256).long().clamp(max=255)
    face, face_eye = ASSETS.face_mask[row, column], ASSETS.face_eye_mask[row, column]

    def of(region: str) -> Tensor:
        return torch.from_numpy(HEAD.regions[region])[ASSETS.faces].min(1).values > 0.9

    assert face[of("nose")].min() > 0.9
    assert face[of("eyeballs")].max() == 0
    assert face_eye[of("iris")].min() > 0.9
    assert face_eye[of("mouth_interior")].max() < 0.1
    back = ASSETS.v_template[ASSETS.faces][..., 2].max(1).values < -0.04
    assert face[back].max() == 0


def test_weights_sum_to_one_and_joints_come_out() -> None:
    assert torch.allclose(ASSETS.lbs_weights.sum(1), torch.ones(ASSETS.num_vertices), atol=1e-6)
    assert ASSETS.lbs_weights.min() >= 0
    joints = ASSETS.J_regressor @ ASSETS.v_template
    assert torch.allclose(joints, torch.from_numpy(JOINTS * MM).float(), atol=1e-5)
    assert torch.allclose(ASSETS.J_regressor.sum(1), torch.ones(5), atol=1e-5)


def test_jaw_opens_the_lips() -> None:
    def gap(vertices: Tensor) -> float:
        points = landmarks(vertices)
        return float(points[62, 1] - points[66, 1])

    assert 0 <= gap(posed()) < 0.002
    assert gap(posed(jaw=0.3)) > 0.012
    assert gap(posed(jaw=0.15)) > 0.005
    # The upper face stays.
    assert torch.allclose(landmarks(posed(jaw=0.3))[17:48], landmarks(posed())[17:48], atol=1e-4)


def test_opening_the_jaw_draws_the_corners_of_the_mouth_together() -> None:
    def width(vertices: Tensor) -> float:
        points = landmarks(vertices)
        return float(points[54, 0] - points[48, 0])

    assert width(posed()) - 0.008 < width(posed(jaw=0.3)) < width(posed()) - 0.001
    jaw_entries = torch.arange(36) // 9 == 1
    assert ASSETS.posedirs[..., ~jaw_entries].abs().max() == 0
    assert ASSETS.posedirs.abs().max() < 0.01


@pytest.mark.parametrize("side", ["left", "right"])
def test_blink_hides_its_eyeball_only(side: str) -> None:
    eyeball = torch.from_numpy(HEAD.regions["eyeballs"])[ASSETS.faces].min(1).values > 0

    def seen(expression: Tensor | None) -> tuple[int, int]:
        vertices = posed(expression)
        faces = visible_faces(vertices, 400)
        faces = faces[eyeball[faces]]
        left = ASSETS.v_template[ASSETS.faces[faces, 0], 0] > 0
        return int(left.sum()), int((~left).sum())

    open_left, open_right = seen(None)
    left, right = seen(named(f"blink_{side}"))
    closed, other, was, was_other = (
        (left, right, open_left, open_right) if side == "left" else (right, left, open_right, open_left)
    )
    assert was > 100
    assert closed <= 0.02 * was
    assert other == was_other


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_half_closed_lids_lie_over_the_eyeball(share: float) -> None:
    mesh = build_mesh()
    vertices = posed(share * named("blink"))
    lid = vertices[mesh.left_eye.rings[4:7, 1:-1].ravel()]
    distance = torch.linalg.norm(lid - torch.tensor(EYE * MM).float(), dim=1)
    assert distance.min() > 0.0123


def test_named_expressions_move_the_face_the_right_way() -> None:
    rest = landmarks(posed())
    smile, raised = landmarks(posed(named("smile"))) - rest, landmarks(posed(named("brows_up"))) - rest
    assert smile[48, 0] < -0.002
    assert smile[54, 0] > 0.002
    assert smile[[48, 54], 1].min() > 0.002
    assert raised[17:27, 1].mean() > 0.003
    assert (landmarks(posed(named("pucker"))) - rest)[48, 0] > 0.004
    left = landmarks(posed(named("smile_left"))) - rest
    assert left[54, 1] > 0.003
    assert abs(left[48, 1]) < 1e-4
    assert (landmarks(posed(named("brows_down"))) - rest)[[21, 22], 1].max() < -0.001


def test_directions_have_full_rank() -> None:
    for directions in (ASSETS.shapedirs, ASSETS.expressiondirs):
        flat = directions.double().flatten(0, 1)
        unit = flat / torch.linalg.norm(flat, dim=0)
        assert torch.linalg.matrix_rank(unit, tol=1e-2) == flat.shape[1]


def test_eyeballs_stay_round_in_every_identity() -> None:
    generator = torch.Generator().manual_seed(0)
    left = torch.from_numpy(HEAD.regions["eyeballs"] > 0) & (ASSETS.v_template[:, 0] > 0)
    rest = ASSETS.v_template[left] - ASSETS.v_template[left].mean(0)
    for _ in range(5):
        eye = posed(shape=torch.randn(100, generator=generator))[left]
        assert torch.allclose(eye - eye.mean(0), rest, atol=1e-5)


def test_regions_are_all_there_and_soft() -> None:
    assert set(HEAD.regions) == REGIONS
    for name, mask in HEAD.regions.items():
        assert mask.shape == (ASSETS.num_vertices,), name
        assert mask.dtype == np.float32
        assert 0 <= mask.min() < mask.max() <= 1
        assert mask.max() > 0.9


def test_model_passes_gradients_to_every_coefficient() -> None:
    code = HeadCode(
        shape=torch.zeros(2, 100, requires_grad=True),
        expression=torch.zeros(2, 50, requires_grad=True),
        rotation=torch.full((2, 3), 0.1, requires_grad=True),
        jaw=torch.full((2, 3), 0.1, requires_grad=True),
        scale=torch.full((2, 1), 7.0, requires_grad=True),
        translation=torch.zeros(2, 2, requires_grad=True),
    )
    MODEL(code).landmarks.square().sum().backward()
    for field in dataclasses.fields(HeadCode):
        gradient = getattr(code, field.name).grad
        assert gradient is not None
        assert gradient.isfinite().all()
        assert gradient.abs().max() > 0, field.name
