"""The built-in head's 68 landmarks: in iBUG's order, and on the outline whichever way the head turns."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from safa.head import builtin
from safa.head.model import HeadCode, HeadModel, landmarks_px
from safa.head.raster import rasterize

ASSETS = builtin.build().assets
MODEL = HeadModel(ASSETS).eval()


def landmarks(row: int = 0) -> Tensor:
    """(68, 3) of the head at rest, with the contour of one yaw row."""
    faces = torch.cat([ASSETS.dynamic_lmk_faces[row], ASSETS.static_lmk_faces])
    bary = torch.cat([ASSETS.dynamic_lmk_bary[row], ASSETS.static_lmk_bary])
    return (ASSETS.v_template[ASSETS.faces[faces]] * bary[..., None]).sum(1)


def test_landmarks_lie_where_ibug_puts_them() -> None:
    points = landmarks()
    x, y = points[:, 0], points[:, 1]
    for right, left in [
        (0, 16),
        (4, 12),
        (7, 9),
        (17, 26),
        (21, 22),
        (31, 35),
        (36, 45),
        (39, 42),
        (48, 54),
        (60, 64),
    ]:
        assert x[right] < 0 < x[left]
        assert torch.allclose(points[right] * torch.tensor([-1, 1, 1]), points[left], atol=1.5e-3)
    assert (x[:17].diff() > 0).all()
    assert y.argmin() == 8
    assert y[17:27].min() > y[36:48].max() > y[33] > y[51] > y[57] > y[8]
    assert (y[27:31].diff() < 0).all()
    assert y[[37, 38, 43, 44]].min() > y[[40, 41, 46, 47]].max()
    full = (ASSETS.v_template[ASSETS.faces[ASSETS.full_lmk_faces]] * ASSETS.full_lmk_bary[..., None]).sum(1)
    assert torch.allclose(full, points)


def test_contour_slides_without_jumps() -> None:
    order = [39 - yaw for yaw in range(-39, 0)] + list(range(40))
    points = torch.stack([landmarks(row)[:17] for row in order])
    assert torch.linalg.norm(points.diff(dim=0), dim=2).max() < 0.004  # metres a degree
    mirrored = points.flip(0).flip(1) * torch.tensor([-1.0, 1.0, 1.0])
    assert torch.allclose(points, mirrored, atol=1.5e-3)


@pytest.mark.parametrize("degrees", [-35, -15, 15, 35])
def test_contour_follows_the_outline_of_a_turned_head(degrees: int) -> None:
    code = HeadCode(
        torch.zeros(1, 100),
        torch.zeros(1, 50),
        torch.tensor([[0.0, math.radians(degrees), 0.0]]),
        torch.zeros(1, 3),
        torch.full((1, 1), 6.0),
        torch.zeros(1, 2),
    )
    with torch.no_grad():
        geometry = MODEL(code)
    points = landmarks_px(geometry, 400)[0]
    hit = rasterize(geometry.vertices + torch.tensor([0.0, 0.0, 10.0]), ASSETS.faces, 400).hit[0]
    for level in range(11, 15) if degrees > 0 else range(2, 6):
        column, row = points[level].round().long().tolist()
        edge = hit[row].nonzero().squeeze(1)
        outline = edge.max() if degrees > 0 else edge.min()
        assert abs(int(outline) - column) <= 6  # px of 400
