"""Random smooth deformations of the plane, for the equivariance loss.

Source: First Order Motion Model (Siarohin et al., 2019), section 3.1 and appendix; docs/model.md, section 7.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from safa.geometry.grids import identity_grid, warp

EPSILON = 1e-6  # keeps the logarithm finite at a control point


@dataclass(frozen=True)
class EquivarianceTransform:
    """``T(p) = A p + b + sum_c w_c d_c^2 log(d_c + 1e-6)``, the sum added to x and to y.

    ``d_c`` is the L1 distance from p to control point c of a regular corner-aligned grid: like a thin plate
    spline, but not one. Points are in normalised coordinates.

    Attributes:
        theta: (B, 2, 3), the affine part [A | b].
        control_params: (B, 1, n*n), the weights w, row by row.
    """

    theta: Tensor
    control_params: Tensor

    @classmethod
    def random(
        cls,
        batch: int,
        generator: torch.Generator,
        *,
        affine_std: float = 0.05,
        tps_std: float = 0.005,
        points: int = 5,
    ) -> EquivarianceTransform:
        """Identity plus Gaussian noise on every number; ``points`` control points a side."""
        device = generator.device
        noise = torch.randn(batch, 2, 3, generator=generator, device=device)
        weights = torch.randn(batch, 1, points * points, generator=generator, device=device)
        return cls(torch.eye(2, 3, device=device) + affine_std * noise, tps_std * weights)

    def to(self, like: Tensor) -> EquivarianceTransform:
        """The same transform in the dtype and on the device of ``like``."""
        return EquivarianceTransform(self.theta.to(like), self.control_params.to(like))

    def warp_points(self, points: Tensor) -> Tensor:
        """T of points (B, N, 2)."""
        distance = self._offsets(points).abs().sum(-1)  # (B, N, C)
        bend = (self.control_params * distance.square() * torch.log(distance + EPSILON)).sum(-1, keepdim=True)
        # (B, N, 2) @ (B, 2, 2) + (B, 1, 2) + (B, N, 1) -> (B, N, 2)
        return points @ self.theta[:, :, :2].transpose(1, 2) + self.theta[:, None, :, 2] + bend

    def jacobian(self, points: Tensor) -> Tensor:
        """dT/dp at points (B, N, 2): (B, N, 2, 2), rows are T's x and y. Differentiable in the points."""
        offsets = self._offsets(points)  # (B, N, C, 2)
        distance = offsets.abs().sum(-1)  # (B, N, C)
        slope = 2 * distance * torch.log(distance + EPSILON) + distance.square() / (distance + EPSILON)
        # (B, N, C, 1) * (B, N, C, 2) -> (B, N, 2)
        bend = ((self.control_params * slope).unsqueeze(-1) * offsets.sign()).sum(-2)
        return self.theta[:, None, :, :2] + bend.unsqueeze(-2)  # (B, 1, 2, 2) + (B, N, 1, 2) -> (B, N, 2, 2)

    def warp_frame(self, image: Tensor) -> Tensor:
        """Read ``image`` (B, C, H, W) at T(pixel), reflected at the border: the same shape."""
        height, width = image.shape[-2:]
        grid = identity_grid(height, width, dtype=image.dtype, device=image.device)
        points = grid.reshape(1, height * width, 2).expand(len(image), -1, -1)  # (H, W, 2) -> (B, H*W, 2)
        moved = self.warp_points(points).reshape(len(image), height, width, 2)  # (B, H*W, 2) -> (B, H, W, 2)
        return warp(image, moved, padding="reflection")

    def _offsets(self, points: Tensor) -> Tensor:
        """Vectors from every control point to every point: (B, N, C, 2)."""
        side = round(self.control_params.shape[-1] ** 0.5)
        # (n, n, 2) -> (C, 2), row by row
        control = identity_grid(side, side, dtype=points.dtype, device=points.device).reshape(-1, 2)
        return points.unsqueeze(2) - control  # (B, N, 1, 2) - (C, 2) -> (B, N, C, 2)
