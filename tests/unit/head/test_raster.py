"""Rasteriser backends against a naive twin: every face tried at every pixel, one after the other."""

from __future__ import annotations

import sys
import types
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck

from safa.errors import UserError
from safa.head import raster
from safa.head.raster import (
    Fragments,
    interpolate,
    interpolate_vertices,
    make_rasterizer,
    rasterize,
    rasterize_pytorch3d,
)

BACKENDS = [
    "native",
    pytest.param(
        "pytorch3d",
        marks=pytest.mark.skipif(find_spec("pytorch3d") is None, reason="PyTorch3D is not installed"),
    ),
]


def naive_rasterize(vertices: Tensor, faces: Tensor, size: int) -> Fragments:
    """The rules of docs/model.md, section 3, one face at a time."""
    shape = (len(vertices), size, size)
    face_index = torch.full(shape, -1)
    zbuf = torch.full(shape, torch.inf, dtype=vertices.dtype)
    bary = torch.full((*shape, 3), -1, dtype=vertices.dtype)
    centre = (2 * torch.arange(size) + 1).to(vertices.dtype) / size - 1
    px, py = centre[None, :], centre[:, None]
    for b, mesh in enumerate(vertices):
        for index, face in enumerate(faces.tolist()):
            (x0, y0, z0), (x1, y1, z1), (x2, y2, z2) = mesh[face].unbind(0)
            area = (x2 - x0) * (y1 - y0) - (y2 - y0) * (x1 - x0)
            if min(z0, z1, z2) < 0 or abs(area) <= 1e-8:
                continue
            w0 = ((px - x1) * (y2 - y1) - (py - y1) * (x2 - x1)) / (area + 1e-8)
            w1 = ((px - x2) * (y0 - y2) - (py - y2) * (x0 - x2)) / (area + 1e-8)
            w2 = ((px - x0) * (y1 - y0) - (py - y0) * (x1 - x0)) / (area + 1e-8)
            depth = w0 * z0 + w1 * z1 + w2 * z2
            nearer = (w0 > 0) & (w1 > 0) & (w2 > 0) & (depth < zbuf[b])
            face_index[b] = torch.where(nearer, index, face_index[b])
            zbuf[b] = torch.where(nearer, depth, zbuf[b])
            bary[b] = torch.where(nearer[..., None], torch.stack([w0, w1, w2], -1), bary[b])
    return Fragments(face_index, torch.where(face_index < 0, -1, zbuf), bary)


def _assert_equal(ours: Fragments, known: Fragments) -> None:
    assert torch.equal(ours.face_index, known.face_index)
    assert torch.equal(ours.zbuf, known.zbuf)
    assert torch.equal(ours.bary, known.bary)


def _random_mesh(
    seed: int, *, batch: int, num_faces: int, spread: float, depth: float
) -> tuple[Tensor, Tensor]:
    """Triangles of all sizes, some behind the screen, some of no area, some far outside the picture."""
    rng = torch.Generator().manual_seed(seed)
    num_vertices = 2 * num_faces
    vertices = torch.randn(batch, num_vertices, 3, generator=rng) * spread
    vertices[..., 2] = torch.rand(batch, num_vertices, generator=rng) + depth
    # A third of the corners close to another one: small faces and slivers.
    near = torch.randint(num_vertices, (num_vertices,), generator=rng)
    jitter = torch.randn(batch, num_vertices, 3, generator=rng) * 0.03
    vertices[:, ::3] = (vertices[:, near] + jitter)[:, ::3]
    return vertices, torch.randint(num_vertices, (num_faces, 3), generator=rng)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", [1, 7, 16, 33])
def test_equals_its_naive_twin(backend: str, size: int) -> None:
    vertices, faces = _random_mesh(0, batch=3, num_faces=40, spread=0.7, depth=-0.05)
    ours = make_rasterizer(backend)(vertices, faces, size)
    known = naive_rasterize(vertices, faces, size)
    if backend == "native":
        _assert_equal(ours, known)
    else:
        assert torch.equal(ours.face_index, known.face_index)
        torch.testing.assert_close(ours.bary, known.bary)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    size=st.integers(1, 24),
    num_faces=st.integers(1, 25),
    spread=st.sampled_from([0.01, 0.2, 0.8, 5.0, 100.0]),
    depth=st.sampled_from([-0.2, 0.0, 10.0]),
)
def test_equals_its_naive_twin_on_any_mesh(
    seed: int, size: int, num_faces: int, spread: float, depth: float
) -> None:
    vertices, faces = _random_mesh(seed, batch=2, num_faces=num_faces, spread=spread, depth=depth)
    _assert_equal(rasterize(vertices, faces, size), naive_rasterize(vertices, faces, size))


@pytest.mark.parametrize("size", [64, 256])
def test_matches_the_reference(size: int, golden: Path) -> None:
    with np.load(golden / "a/raster.npz") as file:
        # Recorded in PyTorch3D's axes (x left, y up), faces counted through the batch.
        vertices = torch.from_numpy(file["verts"]) * torch.tensor([-1.0, -1, 1])
        faces = torch.from_numpy(file["faces"]).long()
        packed, zbuf = (torch.from_numpy(file[f"{name}_{size}"]) for name in ("pix_to_face", "zbuf"))
        bary = file[f"bary_{size}"]
    assert torch.equal(faces[0], faces[1])
    ours = rasterize(vertices, faces[0], size)
    first = torch.tensor([0, len(faces[0])])[:, None, None]
    assert torch.equal(torch.where(ours.hit, ours.face_index + first, -1), packed.long())
    torch.testing.assert_close(ours.zbuf, zbuf, atol=1e-6, rtol=0)
    step = size // bary.shape[1]
    np.testing.assert_allclose(ours.bary[:, ::step, ::step], bary, atol=1e-5)


# ---- each rule on its own ----------------------------------------------------------------------------------

COVERING = torch.tensor([[-4.0, -4, 1], [4, -4, 1], [0, 4, 1]])  # covers the whole screen at z = 1
FACE = torch.tensor([[0, 1, 2]])


def test_x_runs_right_and_y_runs_down() -> None:
    corner = torch.tensor([[[-0.4, -1.1, 1], [1.1, -1.1, 1], [1.1, 0.4, 1]]])
    hit = rasterize(corner, FACE, 4).hit[0]
    assert hit.tolist() == [[False, False, True, True]] + [[False] * 3 + [True]] + [[False] * 4] * 2


@pytest.mark.parametrize("order", [[0, 1, 2], [0, 2, 1]])
def test_faces_are_seen_from_both_sides(order: list[int]) -> None:
    assert rasterize(COVERING[None], torch.tensor([order]), 4).hit.all()


def test_the_nearest_face_wins_and_the_smaller_index_on_equal_depth() -> None:
    layers = torch.cat([COVERING + torch.tensor([0.0, 0, z]) for z in (2, 1, 1, 3)])[None]
    faces = torch.arange(12).reshape(4, 3)
    fragments = rasterize(layers, faces, 5)
    assert (fragments.face_index == 1).all()
    torch.testing.assert_close(fragments.zbuf, torch.full((1, 5, 5), 2.0))


def test_a_face_with_one_corner_before_the_screen_is_dropped_whole() -> None:
    vertices = COVERING.clone()
    vertices[2, 2] = -1e-6
    assert not rasterize(vertices[None], FACE, 8).hit.any()
    vertices[2, 2] = 0
    assert rasterize(vertices[None], FACE, 8).hit.all()


def test_depth_zero_of_either_sign_counts_as_near() -> None:
    layers = torch.cat([COVERING * torch.tensor([1, 1, z]) for z in (0.0, -0.0, 1.0)])[None]
    fragments = rasterize(layers, torch.arange(9).reshape(3, 3), 4)
    assert (fragments.face_index == 0).all()
    assert (fragments.zbuf == 0).all()


def test_faces_without_area_cover_nothing() -> None:
    line = torch.tensor([[[-1.0, -1, 1], [0, 0, 1], [1, 1, 1]]])
    assert not rasterize(line, FACE, 9).hit.any()


def test_vertices_that_are_not_numbers_cover_nothing() -> None:
    vertices = torch.stack([COVERING, COVERING])
    vertices[0, 0, 0] = torch.nan
    assert rasterize(vertices, FACE, 4).hit.any((1, 2)).tolist() == [False, True]


def test_an_empty_picture_has_minus_one_and_interpolates_to_zero() -> None:
    fragments = rasterize(COVERING[None] + 100, FACE, 4)
    assert (fragments.face_index == -1).all()
    assert (fragments.zbuf == -1).all()
    assert (fragments.bary == -1).all()
    assert torch.equal(interpolate(fragments, torch.ones(1, 1, 3, 2)), torch.zeros(1, 2, 4, 4))


# ---- batches and memory ------------------------------------------------------------------------------------


def test_a_batch_of_4_equals_4_batches_of_1() -> None:
    vertices, faces = _random_mesh(1, batch=4, num_faces=50, spread=0.7, depth=0.0)
    together = rasterize(vertices, faces, 20)
    for b in range(4):
        alone = rasterize(vertices[b : b + 1], faces, 20)
        assert torch.equal(together.face_index[b], alone.face_index[0])
        assert torch.equal(together.bary[b], alone.bary[0])


@pytest.mark.parametrize("limit", [1, 100, 2**40])
def test_working_in_chunks_changes_nothing(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    vertices, faces = _random_mesh(2, batch=2, num_faces=60, spread=1.0, depth=0.0)
    whole = rasterize(vertices, faces, 16)
    monkeypatch.setattr(raster, "CHUNK_CPU", limit)
    _assert_equal(rasterize(vertices, faces, 16), whole)


def test_many_faces_that_fill_the_screen_are_never_all_expanded_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    largest = 0
    candidates = raster._candidates

    def watch(corners: Tensor, row: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
        nonlocal largest
        result = candidates(corners, row, size)
        largest = max(largest, len(result[1]))
        return result

    monkeypatch.setattr(raster, "_candidates", watch)
    monkeypatch.setattr(raster, "CHUNK_CPU", 2**14)
    layers = torch.cat([COVERING + torch.tensor([0.0, 0, z]) for z in range(200)])[None]
    fragments = rasterize(layers, torch.arange(600).reshape(200, 3), 64)
    assert (fragments.face_index == 0).all()
    assert largest <= 2**14 + 64**2


# ---- attributes and gradients ------------------------------------------------------------------------------


def test_interpolation_blends_the_corners() -> None:
    vertices, faces = _random_mesh(3, batch=2, num_faces=20, spread=0.7, depth=0.0)
    fragments = rasterize(vertices, faces, 9)
    attributes = torch.randn(2, 20, 3, 4)
    picture = interpolate(fragments, attributes)
    for b in range(2):
        for i in range(9):
            for j in range(9):
                face = int(fragments.face_index[b, i, j])
                expected = fragments.bary[b, i, j] @ attributes[b, face] if face >= 0 else torch.zeros(4)
                torch.testing.assert_close(picture[b, :, i, j], expected)


def test_both_ways_of_giving_attributes_agree() -> None:
    vertices, faces = _random_mesh(4, batch=3, num_faces=20, spread=0.7, depth=0.0)
    fragments = rasterize(vertices, faces, 9)
    values = torch.randn(3, 40, 2)
    assert torch.equal(
        interpolate_vertices(fragments, values, faces), interpolate(fragments, values[:, faces])
    )
    shared = values[:1]
    assert torch.equal(
        interpolate(fragments, shared[:, faces]),
        interpolate_vertices(fragments, shared.expand(3, -1, -1), faces),
    )


def _smooth_mesh() -> tuple[Tensor, Tensor]:
    """Float64 faces none of whose pixels is close enough to an edge to flip under gradcheck's steps."""
    for seed in range(100):
        vertices, faces = _random_mesh(seed, batch=2, num_faces=5, spread=0.6, depth=1.0)
        fragments = rasterize(vertices, faces, 6)
        if fragments.hit.sum() > 20 and fragments.bary[fragments.hit].min() > 1e-3:
            return vertices.double(), faces
    raise AssertionError("no such mesh among 100 seeds")


def test_gradients_to_vertices_and_attributes() -> None:
    vertices, faces = _smooth_mesh()
    attributes = torch.randn(2, 5, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def picture(vertices: Tensor, attributes: Tensor) -> tuple[Tensor, ...]:
        fragments = rasterize(vertices, faces, 6)
        return fragments.bary, fragments.zbuf, interpolate(fragments, attributes)

    assert gradcheck(picture, (vertices.requires_grad_(), attributes.requires_grad_()), nondet_tol=1e-12)


def test_gradients_equal_those_of_the_naive_twin() -> None:
    vertices, faces = _smooth_mesh()
    weights = torch.randn(2, 6, 6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    gradients = []
    for backend in (rasterize, naive_rasterize):
        leaf = vertices.clone().requires_grad_()
        fragments = backend(leaf, faces, 6)
        (fragments.bary * weights).sum().add(fragments.zbuf.square().sum()).backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(*gradients)


# ---- the other backend -------------------------------------------------------------------------------------


def test_pytorch3d_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raster, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="rasterizer: PyTorch3D is not installed"):
        make_rasterizer("pytorch3d")


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(ValueError, match="no rasteriser named 'opengl'"):
        make_rasterizer("opengl")


def test_pytorch3d_is_called_in_its_own_axes_and_face_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a stand-in that follows PyTorch3D's documented conventions, for machines without it."""

    class Meshes:
        def __init__(self, verts: Tensor, faces: Tensor) -> None:
            self.verts, self.faces = verts, faces

    def rasterize_meshes(meshes: Meshes, **options: object) -> tuple[Tensor, ...]:
        assert options == {
            "image_size": 8,
            "blur_radius": 0.0,
            "faces_per_pixel": 1,
            "perspective_correct": False,
        }
        ours = meshes.verts * torch.tensor([-1, -1, 1])  # +x left, +y up
        known = naive_rasterize(ours, meshes.faces[0], 8)
        first = torch.arange(len(ours))[:, None, None] * meshes.faces.shape[1]
        packed = torch.where(known.hit, known.face_index + first, -1)
        return packed[..., None], known.zbuf[..., None], known.bary[..., None, :], torch.zeros(())

    for name in ("pytorch3d", "pytorch3d.renderer", "pytorch3d.renderer.mesh", "pytorch3d.structures"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["pytorch3d.renderer.mesh"].rasterize_meshes = rasterize_meshes  # type: ignore[attr-defined]
    sys.modules["pytorch3d.structures"].Meshes = Meshes  # type: ignore[attr-defined]
    vertices, faces = _random_mesh(5, batch=3, num_faces=12, spread=0.7, depth=0.0)
    _assert_equal(rasterize_pytorch3d(vertices, faces, 8), rasterize(vertices, faces, 8))
