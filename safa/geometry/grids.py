"""Sampling grids: the identity, warping by a flow, resizing. Conventions: ``safa.geometry``."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Padding = Literal["zeros", "reflection"]


def identity_grid(
    height: int, width: int, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> Tensor:
    """Normalised position of every pixel: (height, width, 2), last axis (x, y), corners at -1 and 1."""
    if height < 2 or width < 2:
        raise ValueError(f"a corner-aligned grid needs 2 pixels a side, got {height} x {width}")
    x = 2 * (torch.arange(width, dtype=dtype, device=device) / (width - 1)) - 1
    y = 2 * (torch.arange(height, dtype=dtype, device=device) / (height - 1)) - 1
    # (W,) and (H, 1) -> (H, W, 2)
    return torch.stack([x.expand(height, width), y[:, None].expand(height, width)], dim=-1)


def warp(image: Tensor, grid: Tensor, padding: Padding = "zeros") -> Tensor:
    """Read ``image`` (B, C, h, w) at normalised positions (B, H, W, 2): (B, C, H, W), bilinear.

    The grid is corner-aligned and the sampling is not (``align_corners=False``): an identity grid shrinks the
    picture towards its centre by up to half a pixel. Published weights were trained with exactly this mix, so
    it stays, and stays here alone. ``padding`` is what lies outside: zeros, or the picture reflected, which
    only the equivariance transform uses.
    """
    return F.grid_sample(image, grid, mode="bilinear", padding_mode=padding, align_corners=False)


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resize of (B, C, h, w) to ``size`` = (H, W), ``align_corners=False``; as it is if it fits."""
    if image.shape[-2:] == size:
        return image
    return F.interpolate(image, size=size, mode="bilinear", align_corners=False)


def pixel_to_normalised(points: Tensor, size: tuple[int, int]) -> Tensor:
    """Pixel positions (..., 2), pixel centres at whole numbers, to corner-aligned ones; ``size`` = (H, W)."""
    height, width = size
    return points * points.new_tensor([2 / (width - 1), 2 / (height - 1)]) - 1


def normalised_to_pixel(points: Tensor, size: tuple[int, int]) -> Tensor:
    """Inverse of ``pixel_to_normalised``."""
    height, width = size
    return (points + 1) * points.new_tensor([(width - 1) / 2, (height - 1) / 2])
