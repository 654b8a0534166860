"""Axis-angle to matrix."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from torch.autograd import gradcheck

from safa.geometry.rotations import axis_angle_to_matrix

ANGLES = st.floats(-4, 4)


@given(x=ANGLES, y=ANGLES, z=ANGLES)
def test_agrees_with_scipy(x: float, y: float, z: float) -> None:
    ours = axis_angle_to_matrix(torch.tensor([x, y, z], dtype=torch.float64))
    np.testing.assert_allclose(ours.numpy(), Rotation.from_rotvec([x, y, z]).as_matrix(), atol=1e-7)


@pytest.mark.parametrize(
    ("axis", "start", "end"),
    [("x", (0, 1, 0), (0, 0, 1)), ("y", (0, 0, 1), (1, 0, 0)), ("z", (1, 0, 0), (0, 1, 0))],
)
def test_quarter_turns_are_right_handed(axis: str, start: tuple[int], end: tuple[int]) -> None:
    rotation = torch.zeros(3, dtype=torch.float64)
    rotation["xyz".index(axis)] = math.pi / 2
    turned = axis_angle_to_matrix(rotation) @ torch.tensor(start, dtype=torch.float64)
    torch.testing.assert_close(turned, torch.tensor(end, dtype=torch.float64), atol=1e-7, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zero_rotation_is_the_identity_with_finite_gradients(dtype: torch.dtype) -> None:
    rotation = torch.zeros(2, 3, dtype=dtype, requires_grad=True)
    matrix = axis_angle_to_matrix(rotation)
    torch.testing.assert_close(matrix, torch.eye(3, dtype=dtype).expand(2, 3, 3))
    matrix[:, 2, 1].sum().backward()
    # d R[2, 1] / d r_x = 1: a small turn about x lifts y towards z.
    torch.testing.assert_close(rotation.grad, torch.tensor([[1.0, 0, 0]] * 2, dtype=dtype), atol=1e-6, rtol=0)


def test_gradients() -> None:
    rotation = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert gradcheck(axis_angle_to_matrix, (rotation.requires_grad_(),))
