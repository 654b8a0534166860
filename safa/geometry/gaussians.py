"""Gaussian maps: a soft picture of where a point is."""

from __future__ import annotations

import torch
from torch import Tensor

from safa.geometry.grids import identity_grid


def gaussian_maps(points_BK2: Tensor, size: tuple[int, int], variance: float) -> Tensor:
    """``exp(-|z - p|^2 / (2 variance))`` over the corner-aligned grid: (B, K, h, w), peak 1.

    Args:
        points_BK2: normalised positions.
        size: (h, w) of the maps.
        variance: in normalised units squared.

    Source: First Order Motion Model (Siarohin et al., 2019), equation (6).
    """
    height, width = size
    grid_hw2 = identity_grid(height, width, dtype=points_BK2.dtype, device=points_BK2.device)
    # x and y separate: one exponential per row and column instead of one per pixel.
    falloff_x = (grid_hw2[0, :, 0] - points_BK2[..., 0, None]).square() * (-0.5 / variance)  # (B, K, w)
    falloff_y = (grid_hw2[:, 0, 1] - points_BK2[..., 1, None]).square() * (-0.5 / variance)  # (B, K, h)
    return torch.exp(falloff_y)[..., :, None] * torch.exp(falloff_x)[..., None, :]
