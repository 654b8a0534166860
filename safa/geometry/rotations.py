"""Rotations from axis-angle vectors."""

from __future__ import annotations

import torch
from torch import Tensor

EPSILON = 1e-8  # keeps the angle, and so every gradient, off zero


def axis_angle_to_matrix(rotation: Tensor) -> Tensor:
    """Rodrigues' formula: (..., 3) in radians to matrices (..., 3, 3).

    ``R = I + sin(a) K + (1 - cos(a)) K^2``. The angle is ``|r + 1e-8|`` and the axis ``r / angle``, as
    published weights were trained with; gradients are finite at zero rotation.
    """
    angle = (rotation + EPSILON).norm(dim=-1, keepdim=True)  # (..., 1)
    x, y, z = (rotation / angle).unbind(-1)  # (..., 3) -> three of (...)
    zero = torch.zeros_like(x)
    # nine of (...) -> (..., 9) -> (..., 3, 3), the matrix K of the cross product with the axis
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).reshape(*rotation.shape, 3)
    identity = torch.eye(3, dtype=rotation.dtype, device=rotation.device)
    angle = angle.unsqueeze(-1)  # (..., 1) -> (..., 1, 1)
    return identity + torch.sin(angle) * cross + (1 - torch.cos(angle)) * (cross @ cross)
