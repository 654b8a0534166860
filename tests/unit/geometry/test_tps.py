"""The random transform of the equivariance loss."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.autograd import gradcheck

from safa.geometry.tps import EquivarianceTransform


def _random(batch: int = 2, points: int = 3, tps_std: float = 0.3) -> EquivarianceTransform:
    rng = torch.Generator().manual_seed(3)
    transform = EquivarianceTransform.random(batch, rng, affine_std=0.2, tps_std=tps_std, points=points)
    return transform.to(torch.zeros((), dtype=torch.float64))


def _points(batch: int = 2, count: int = 4) -> Tensor:
    rng = torch.Generator().manual_seed(4)
    return torch.rand(batch, count, 2, generator=rng, dtype=torch.float64) * 2 - 1


def test_points_equal_their_naive_twin() -> None:
    transform, points = _random(), _points()
    moved = transform.warp_points(points)
    for b in range(2):
        for n in range(points.shape[1]):
            x, y = (float(value) for value in points[b, n])
            bend = 0.0
            for c, weight in enumerate(transform.control_params[b, 0].tolist()):
                control_x, control_y = c % 3 - 1, c // 3 - 1  # a 3 x 3 grid over [-1, 1], row by row
                distance = abs(x - control_x) + abs(y - control_y)
                bend += weight * distance**2 * math.log(distance + 1e-6)
            for axis in (0, 1):
                of_x, of_y, shift = transform.theta[b, axis].tolist()
                expected = of_x * x + of_y * y + shift + bend
                assert math.isclose(float(moved[b, n, axis]), expected, rel_tol=1e-12)


def test_jacobian_is_the_derivative_of_the_points() -> None:
    transform, points = _random(), _points()
    by_autograd = torch.autograd.functional.jacobian(transform.warp_points, points)  # (B, N, 2, B, N, 2)
    analytic = transform.jacobian(points)
    for b in range(2):
        for n in range(points.shape[1]):
            torch.testing.assert_close(analytic[b, n], by_autograd[b, n, :, b, n])


def test_jacobian_keeps_its_graph() -> None:
    transform, points = _random(), _points().requires_grad_()
    assert gradcheck(transform.jacobian, (points,))
    assert gradcheck(transform.warp_points, (points,))


def test_at_a_control_point_everything_is_finite() -> None:
    transform, centre = _random(), torch.zeros(2, 1, 2, dtype=torch.float64, requires_grad=True)
    (transform.warp_points(centre).sum() + transform.jacobian(centre).sum()).backward()
    assert centre.grad is not None
    assert centre.grad.isfinite().all()


def test_no_noise_is_the_identity() -> None:
    rng = torch.Generator().manual_seed(0)
    transform = EquivarianceTransform.random(2, rng, affine_std=0, tps_std=0)
    points = torch.rand(2, 5, 2)
    torch.testing.assert_close(transform.warp_points(points), points)
    torch.testing.assert_close(transform.jacobian(points), torch.eye(2).expand(2, 5, 2, 2))


def test_a_seed_gives_the_same_transform_again() -> None:
    first, second = _random(), _random()
    assert torch.equal(first.theta, second.theta)
    assert torch.equal(first.control_params, second.control_params)


def test_the_border_of_a_frame_is_reflected() -> None:
    shift = EquivarianceTransform(torch.tensor([[[1.0, 0, 0.5], [0, 1, 0]]]), torch.zeros(1, 1, 25))
    frame = shift.warp_frame(torch.ones(1, 3, 8, 8))
    torch.testing.assert_close(frame, torch.ones(1, 3, 8, 8))


def test_matches_the_reference(golden: Path) -> None:
    inputs, outputs = np.load(golden / "a/train_inputs.npz"), np.load(golden / "a/train_outputs.npz")
    transform = EquivarianceTransform(
        torch.from_numpy(inputs["theta"]), torch.from_numpy(inputs["control_params"])
    )
    points = torch.from_numpy(outputs["warp_points"])
    np.testing.assert_allclose(transform.warp_points(points), outputs["warp_value"], atol=1e-6)
    np.testing.assert_allclose(transform.jacobian(points), outputs["warp_jacobian"], atol=1e-6)
    driving = torch.from_numpy(inputs["driving_u8"]).permute(0, 3, 1, 2) / 255
    frame = transform.warp_frame(driving)[..., ::2, ::2]
    np.testing.assert_allclose(frame, outputs["transformed_frame_s2"], atol=1e-4)
