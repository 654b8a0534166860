"""Downsampling that blurs first."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from safa.geometry.gaussians import AntiAlias


@pytest.mark.parametrize(("scale", "side"), [(0.25, 13), (0.5, 5), (0.125, 29), (224 / 256, 1), (1.0, 1)])
def test_kernels_have_their_published_size_and_sum_to_one(scale: float, side: int) -> None:
    weight = AntiAlias(3, scale).weight
    assert weight.shape == (3, 1, side, side)
    torch.testing.assert_close(weight.sum((1, 2, 3)), torch.ones(3))


@pytest.mark.parametrize("scale", [1.0, 224 / 256])
def test_scales_near_one_change_nothing(scale: float) -> None:
    image = torch.rand(2, 3, 9, 9)
    assert torch.equal(AntiAlias(3, scale)(image), image)


@pytest.mark.parametrize("scale", [0.5, 0.25])
def test_equals_its_naive_twin(scale: float) -> None:
    image = torch.rand(1, 2, 16, 12, dtype=torch.float64)
    small = AntiAlias(2, scale).double()(image)
    torch.testing.assert_close(small, _naive(image, scale), atol=1e-6, rtol=1e-6)


def _naive(image: Tensor, scale: float) -> Tensor:
    sigma = (1 / scale - 1) / 2
    radius = round(4 * sigma)
    hooks = range(-radius, radius + 1)
    gauss = {(i, j): math.exp(-(i * i + j * j) / (2 * sigma**2)) for i in hooks for j in hooks}
    total = sum(gauss.values())
    padded = F.pad(image, (radius,) * 4)
    step = int(1 / scale)
    rows, columns = range(0, image.shape[2], step), range(0, image.shape[3], step)
    out = torch.zeros(*image.shape[:2], len(rows), len(columns), dtype=image.dtype)
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            for (di, dj), weight in gauss.items():
                out[..., i, j] += weight / total * padded[..., row + radius + di, column + radius + dj]
    return out


@pytest.mark.parametrize("scale", [0.0, -1.0, 1.5])
def test_impossible_scales_are_refused(scale: float) -> None:
    with pytest.raises(ValueError, match=r"scale must be in \(0, 1\]"):
        AntiAlias(3, scale)
