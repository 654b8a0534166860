"""Gaussians: soft maps of where points are, and the blur before downsampling."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from safa.geometry.grids import identity_grid


def gaussian_maps(points: Tensor, size: tuple[int, int], variance: float) -> Tensor:
    """``exp(-|z - p|^2 / (2 variance))`` over the corner-aligned grid: (B, K, h, w), peak 1.

    Args:
        points: normalised positions.
        size: (h, w) of the maps.
        variance: in normalised units squared.

    Source: First Order Motion Model (Siarohin et al., 2019), equation (6).
    """
    height, width = size
    grid = identity_grid(height, width, dtype=points.dtype, device=points.device)
    # x and y separate: one exponential per row and column instead of one per pixel.
    falloff_x = (grid[0, :, 0] - points[..., 0, None]).square() * (-0.5 / variance)  # (B, K, w)
    falloff_y = (grid[:, 0, 1] - points[..., 1, None]).square() * (-0.5 / variance)  # (B, K, h)
    # (B, K, h, 1) * (B, K, 1, w) -> (B, K, h, w)
    return torch.exp(falloff_y)[..., :, None] * torch.exp(falloff_x)[..., None, :]


class AntiAlias(nn.Module):
    """Gaussian blur, then every (1/scale)-th row and column: (B, C, H, W) -> (B, C, ceil(H s), ceil(W s)).

    ``sigma = (1/scale - 1) / 2``, kernel side ``2 round(4 sigma) + 1``, zeros outside the picture, stride
    ``int(1/scale)``. Scale 1 changes nothing. A scale near 1 (224/256) has a kernel of one pixel and
    stride 1, so it changes nothing either; published weights were trained with that.

    The kernel is the buffer ``weight`` (C, 1, k, k). Source: First Order Motion Model, released models.
    """

    weight: Tensor

    def __init__(self, channels: int, scale: float) -> None:
        super().__init__()
        if not 0 < scale <= 1:
            raise ValueError(f"scale must be in (0, 1], got {scale}")
        sigma = (1 / scale - 1) / 2
        radius = round(4 * sigma)
        self.stride = int(1 / scale)
        self.is_identity = radius == 0 and self.stride == 1
        # (1, 1, k, k) -> (C, 1, k, k)
        self.register_buffer("weight", _gaussian_kernel(sigma, radius).repeat(channels, 1, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        if self.is_identity:
            return image
        radius = self.weight.shape[-1] // 2
        return F.conv2d(image, self.weight, padding=radius, stride=self.stride, groups=self.weight.shape[0])


def _gaussian_kernel(sigma: float, radius: int) -> Tensor:
    """A normalised Gaussian (1, 1, 2 radius + 1, 2 radius + 1); a single 1 for radius 0."""
    offset = torch.arange(-radius, radius + 1, dtype=torch.float32, device="cpu")
    line = torch.exp(-offset.square() / (2 * sigma**2)) if radius else torch.ones(1, device="cpu")
    kernel = line[:, None] * line[None, :]  # (k, 1) * (1, k) -> (k, k)
    return (kernel / kernel.sum())[None, None]  # (k, k) -> (1, 1, k, k)
