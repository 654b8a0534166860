from __future__ import annotations

import numpy as np
import pytest
import torch

from safa.geometry.grids import identity_grid
from safa.visualize.overlays import flow, heat, normals

GRID = identity_grid(5, 7, dtype=torch.float32, device=torch.device("cpu"))


def test_heat_grows_brighter() -> None:
    image = heat(torch.linspace(0, 1, 256)[None])
    brightness = image[0].astype(int).sum(-1)
    assert (np.diff(brightness) >= -3).all()  # an 8-bit table may step back by a level
    assert brightness[0] < 10
    assert brightness[-1] > 600


def test_heat_clips() -> None:
    image = heat(torch.tensor([[-1.0, 0.0, 1.0, 2.0]]))
    assert (image[0, 0] == image[0, 1]).all()
    assert (image[0, 2] == image[0, 3]).all()
    with pytest.raises(ValueError, match="one map"):
        heat(torch.zeros(1, 2, 2))


def test_a_flow_at_rest_is_white() -> None:
    assert (flow(GRID) == 255).all()


def test_directions_have_opposite_colours_and_distance_saturates() -> None:
    right, left = (flow(GRID + torch.tensor([shift, 0.0]))[2, 3].astype(int) for shift in (0.3, -0.3))
    assert right.tolist() == [255, 0, 0]
    assert left.tolist() == [0, 255, 255]
    halfway = flow(GRID + torch.tensor([0.15, 0.0]))[2, 3]
    assert halfway.tolist() == [255, 128, 128]
    beyond = flow(GRID + torch.tensor([3.0, 0.0]))[2, 3]
    assert beyond.tolist() == right.tolist()


def test_normals_that_face_the_viewer_are_blue_and_missed_pixels_black() -> None:
    field = torch.zeros(3, 2, 2)
    field[2, 0, 0] = -1.0
    image = normals(field)
    assert image[0, 0].tolist() == [128, 128, 255]
    assert (image[1] == 0).all()
