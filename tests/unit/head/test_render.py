"""Texture and renders of the 3D head."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from safa.head.assets import HeadAssets
from safa.head.model import HeadGeometry
from safa.head.raster import rasterize
from safa.head.render import HeadRender, Surface, bake_texture, render_pair, render_side, vertex_normals

SIZE = 32


def _surface(head: HeadAssets, uv_size: int = SIZE) -> Surface:
    layout = torch.cat([head.uv_coords * torch.tensor([2, -2]) + torch.tensor([-1, 1]), _ones(head)], dim=1)
    face_uv = layout[head.uv_faces][None, ..., :2]
    return Surface(head.faces, face_uv, rasterize(layout[None], head.uv_faces, uv_size))


def _ones(head: HeadAssets) -> Tensor:
    return torch.ones(len(head.uv_coords), 1)


def _pose(head: HeadAssets, shift: tuple[float, float] = (0, 0), batch: int = 1) -> HeadGeometry:
    """The template seen from the front, moved on the screen."""
    vertices = head.v_template * torch.tensor([8.0, -8, -8]) + torch.tensor([*shift, 0.0])
    vertices = vertices.expand(batch, -1, -1).clone()
    return HeadGeometry(vertices, vertices[:, :68], vertices[:, :68])


def _photo(batch: int = 1) -> Tensor:
    """Smooth, and nowhere black."""
    y, x = torch.meshgrid(torch.linspace(0.2, 0.9, SIZE), torch.linspace(0.3, 0.8, SIZE), indexing="ij")
    return torch.stack([x, y, (x + y) / 2]).expand(batch, -1, -1, -1).clone()


def _render(head: HeadAssets, shift: tuple[float, float]) -> HeadRender:
    surface, source, driving = _surface(head), _pose(head), _pose(head, shift)
    albedo = bake_texture(_photo(), source, surface, torch.ones(1, 1, SIZE, SIZE))
    sides = [render_side(pose, surface, SIZE, rasterize) for pose in (source, driving)]
    return render_pair(*sides, albedo, head.faces)


def test_the_photo_comes_back_in_its_own_pose(toy_head: HeadAssets) -> None:
    render = _render(toy_head, (0, 0))
    # Away from the outline, where the texture is stretched most.
    inner = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    inner[10:-10, 10:-10] = True
    assert (render.source_mask[0, 0] > 0)[inner].all()
    error = (render.source - _photo())[0][:, inner].abs()
    assert error.max() < 0.03
    assert torch.equal(render.source, render.reenact)
    assert render.motion_field.abs().max() == 0


def test_a_shifted_head_moves_back_to_its_source(toy_head: HeadAssets) -> None:
    shift = (4 / SIZE, -2 / SIZE)  # two pixels right, one up
    render = _render(toy_head, shift)
    assert torch.equal(render.driving_mask, render.source_mask.roll((-1, 2), (2, 3)))
    inside = render.driving_mask[0, 0] > 0
    motion = render.motion_field[0][:, inside]
    # The barycentric weights sum to almost 1.
    torch.testing.assert_close(motion, -torch.tensor(shift)[:, None].expand_as(motion), atol=1e-4, rtol=0)
    torch.testing.assert_close(render.reenact, render.source.roll((-1, 2), (2, 3)), atol=1e-4, rtol=0)


def test_everything_is_zero_outside_its_mask(toy_head: HeadAssets) -> None:
    render = _render(toy_head, (0.2, 0.1))
    for name in ("source", "source_normals", "source_uv"):
        assert (getattr(render, name) * (1 - render.source_mask)).abs().max() == 0, name
    for name in ("reenact", "driving_normals", "driving_uv", "motion_field"):
        assert (getattr(render, name) * (1 - render.driving_mask)).abs().max() == 0, name
    assert set(render.source_mask.unique().tolist()) == {0, 1}


def test_a_black_texel_is_outside_the_mask(toy_head: HeadAssets) -> None:
    surface, pose = _surface(toy_head), _pose(toy_head)
    side = render_side(pose, surface, SIZE, rasterize)
    albedo = torch.ones(1, 3, SIZE, SIZE)
    albedo[..., : SIZE // 2, :] = 0
    render = render_pair(side, side, albedo, toy_head.faces)
    assert 0 < render.source_mask.sum() < side.alpha.sum()
    assert render.source_normals[:, :, :8].abs().max() == 0


def test_normals_point_at_the_viewer(toy_head: HeadAssets) -> None:
    render = _render(toy_head, (0, 0))
    middle = render.source_normals[0, :, SIZE // 2, SIZE // 2]
    torch.testing.assert_close(middle, torch.tensor([0.0, 0, -1]), atol=0.2, rtol=0)


def test_vertex_normals_equal_their_naive_twin(toy_head: HeadAssets) -> None:
    vertices = torch.randn(2, toy_head.num_vertices, 3, generator=torch.Generator().manual_seed(0))
    ours = vertex_normals(vertices, toy_head.faces)
    for b in range(2):
        sums = np.zeros((toy_head.num_vertices, 3))
        for face in toy_head.faces.tolist():
            corner0, corner1, corner2 = vertices[b, face].double().numpy()
            for corner in face:
                sums[corner] += np.cross(corner1 - corner0, corner2 - corner0)
        known = sums / np.linalg.norm(sums, axis=1, keepdims=True)
        np.testing.assert_allclose(ours[b], known, atol=1e-5)


def test_a_vertex_without_faces_has_a_zero_normal() -> None:
    normals = vertex_normals(torch.rand(1, 4, 3), torch.tensor([[0, 1, 2]]))
    assert normals[0, 3].tolist() == [0, 0, 0]


def test_the_texture_mask_is_applied(toy_head: HeadAssets) -> None:
    mask = torch.zeros(1, 1, SIZE, SIZE)
    mask[..., 8:20] = 0.5
    surface, pose = _surface(toy_head), _pose(toy_head)
    whole = bake_texture(_photo(), pose, surface, torch.ones_like(mask))
    assert torch.equal(bake_texture(_photo(), pose, surface, mask), whole * mask)


def test_inputs_are_left_alone(toy_head: HeadAssets) -> None:
    source, driving, photo = _pose(toy_head), _pose(toy_head, (0.1, 0)), _photo()
    before = [tensor.clone() for tensor in (source.vertices, driving.vertices, photo)]
    surface = _surface(toy_head)
    albedo = bake_texture(photo, source, surface, torch.ones(1, 1, SIZE, SIZE))
    kept = albedo.clone()
    sides = [render_side(pose, surface, SIZE, rasterize) for pose in (source, driving)]
    render_pair(*sides, albedo, toy_head.faces)
    for tensor, copy in zip((source.vertices, driving.vertices, photo, albedo), [*before, kept], strict=True):
        assert torch.equal(tensor, copy)


def test_one_source_serves_many_driving_poses(toy_head: HeadAssets) -> None:
    surface = _surface(toy_head)
    poses = [_pose(toy_head, (0.05 * k, 0)) for k in range(3)]
    albedo = bake_texture(_photo(), poses[0], surface, torch.ones(1, 1, SIZE, SIZE))
    source = render_side(poses[0], surface, SIZE, rasterize)
    stacked = HeadGeometry(
        *(torch.cat([getattr(p, f.name) for p in poses]) for f in dataclasses.fields(HeadGeometry))
    )
    together = render_pair(source, render_side(stacked, surface, SIZE, rasterize), albedo, toy_head.faces)
    for k, pose in enumerate(poses):
        alone = render_pair(source, render_side(pose, surface, SIZE, rasterize), albedo, toy_head.faces)
        for field in dataclasses.fields(HeadRender):
            whole = getattr(together, field.name)
            assert len(whole) == 3
            torch.testing.assert_close(whole[k], getattr(alone, field.name)[0])


def test_gradients_reach_photo_and_both_poses(toy_head: HeadAssets) -> None:
    surface = _surface(toy_head)
    photo, source, driving = _photo(), _pose(toy_head), _pose(toy_head, (0.07, 0.03))
    leaves = [photo, source.vertices, driving.vertices]
    for leaf in leaves:
        leaf.requires_grad_()
    albedo = bake_texture(photo, source, surface, torch.ones(1, 1, SIZE, SIZE))
    sides = [render_side(pose, surface, SIZE, rasterize) for pose in (source, driving)]
    render = render_pair(*sides, albedo, toy_head.faces)
    (render.source.sum() + render.reenact.square().sum() + render.driving_normals[:, 0].sum()).backward()
    for leaf in leaves:
        assert leaf.grad is not None
        assert leaf.grad.isfinite().all()
        assert leaf.grad.abs().max() > 0


def test_gradient_of_vertex_normals() -> None:
    faces = torch.tensor([[0, 1, 2], [0, 2, 3], [1, 2, 3]])
    vertices = torch.randn(1, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert gradcheck(lambda v: vertex_normals(v, faces), (vertices.requires_grad_(),))


@pytest.fixture(scope="module")
def reference_surface(golden: Path) -> tuple[Surface, Tensor]:
    from PIL import Image

    from safa.head.flame_files import read_texture_layout

    layout = read_texture_layout(golden / "assets/head_template.obj")
    uv = torch.from_numpy(layout.uv_coords).float() * 2 - 1
    corners = torch.cat([uv * torch.tensor([1.0, -1]), torch.ones(len(uv), 1)], dim=1)
    uv_faces = torch.from_numpy(layout.uv_faces)
    with Image.open(golden / "assets/uv_face_mask.png") as picture:
        mask = torch.from_numpy(np.asarray(picture)[..., 0] / np.float32(255))
    texels = rasterize(corners[None], uv_faces, 256)
    return Surface(torch.from_numpy(layout.faces), corners[uv_faces][None, ..., :2], texels), mask[None, None]


def test_matches_the_reference(golden: Path, reference_surface: tuple[Surface, Tensor]) -> None:
    """From recorded vertices on: texture, both rasterisations, every picture."""
    surface, mask = reference_surface
    inputs, heads = np.load(golden / "a/inputs.npz"), np.load(golden / "a/tdmm.npz")
    texture, renders = np.load(golden / "a/texture.npz"), np.load(golden / "a/render.npz")
    assert np.array_equal(surface.texels.face_index, texture["uv_pix_to_face"])
    photo = torch.from_numpy(inputs["source_u8"]).permute(0, 3, 1, 2) / 255
    poses = {}
    for side in ("source", "driving"):
        vertices = torch.from_numpy(heads[f"{side}_transformed_verts"])
        poses[side] = HeadGeometry(vertices, vertices[:, :68], vertices[:, :68])
    albedo = bake_texture(photo, poses["source"], surface, mask)
    np.testing.assert_allclose(albedo, texture["albedo"], atol=3e-5)
    sides = {name: render_side(pose, surface, 256, rasterize) for name, pose in poses.items()}
    for name, side in sides.items():
        assert np.count_nonzero(side.fragments.face_index != renders[f"{name}_pix_to_face"]) <= 1
    render = render_pair(sides["source"], sides["driving"], albedo, surface.faces)
    for ours, known in _REFERENCE_NAMES.items():
        error = np.abs(getattr(render, ours).numpy() - renders[known])
        assert np.sqrt((error**2).mean()) < 1e-5, ours
        assert np.quantile(error, 0.999) < 1e-4, ours
        assert error.max() < 6e-3, ours


_REFERENCE_NAMES = {
    "source": "source",
    "reenact": "reenact",
    "source_mask": "source_face_mask",
    "driving_mask": "driving_face_mask",
    "source_normals": "source_normal_images",
    "driving_normals": "driving_normal_images",
    "source_uv": "source_uv_images",
    "driving_uv": "driving_uv_images",
    "motion_field": "motion_field",
}
