"""The coordinate conventions of ``safa.geometry``, each pinned."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck

from safa.geometry.gaussians import gaussian_maps
from safa.geometry.grids import identity_grid, normalised_to_pixel, pixel_to_normalised, resize, warp

SIZES = st.integers(2, 40)


def test_the_grid_is_corner_aligned_with_x_first() -> None:
    grid = identity_grid(3, 5)
    assert grid.shape == (3, 5, 2)
    assert grid[0, 0].tolist() == [-1, -1]
    assert grid[0, -1].tolist() == [1, -1]
    assert grid[-1, 0].tolist() == [-1, 1]
    assert grid[1, 1].tolist() == [-0.5, 0]


@given(height=SIZES, width=SIZES)
def test_pixel_positions_are_the_grid_and_come_back(height: int, width: int) -> None:
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    pixels = torch.stack([x, y], -1).double()
    normalised = pixel_to_normalised(pixels, (height, width))
    torch.testing.assert_close(normalised, identity_grid(height, width, dtype=torch.float64))
    torch.testing.assert_close(normalised_to_pixel(normalised, (height, width)), pixels)


def test_a_grid_of_one_pixel_is_refused() -> None:
    with pytest.raises(ValueError, match="2 pixels a side"):
        identity_grid(1, 4)


def test_warping_equals_its_naive_twin() -> None:
    rng = torch.Generator().manual_seed(0)
    image = torch.rand(2, 3, 5, 7, generator=rng)
    grid = torch.rand(2, 4, 6, 2, generator=rng) * 2.6 - 1.3
    torch.testing.assert_close(warp(image, grid), _naive_warp(image, grid))


def _naive_warp(image: Tensor, grid: Tensor) -> Tensor:
    batch, channels, height, width = image.shape
    out = torch.zeros(batch, channels, *grid.shape[1:3])
    for b in range(batch):
        for i in range(grid.shape[1]):
            for j in range(grid.shape[2]):
                # Not corner-aligned: -1 and 1 are the outer borders of the first and last pixel.
                x = ((float(grid[b, i, j, 0]) + 1) * width - 1) / 2
                y = ((float(grid[b, i, j, 1]) + 1) * height - 1) / 2
                for row in range(height):
                    for column in range(width):
                        weight = max(0.0, 1 - abs(x - column)) * max(0.0, 1 - abs(y - row))
                        out[b, :, i, j] += weight * image[b, :, row, column]
    return out


def test_warping_by_the_identity_shrinks_by_half_a_pixel() -> None:
    """The mix of conventions that published weights were trained with."""
    ramp = torch.arange(8.0).expand(1, 1, 8, 8)
    warped = warp(ramp, identity_grid(8, 8)[None])
    inner = warped[0, 0, 3, 1:-1]
    expected = torch.arange(8.0)[1:-1] * 8 / 7 - 0.5
    torch.testing.assert_close(inner, expected)


def test_what_the_head_screen_calls_pixel_centres_is_what_warping_reads() -> None:
    image = torch.rand(1, 2, 6, 6)
    centre = (2 * torch.arange(6) + 1) / 6 - 1
    grid = torch.stack([centre.expand(6, 6), centre[:, None].expand(6, 6)], -1)
    torch.testing.assert_close(warp(image, grid[None]), image)


def test_resizing_to_the_same_size_is_free() -> None:
    image = torch.rand(1, 3, 4, 6)
    assert resize(image, (4, 6)) is image
    small = resize(image, (2, 3))
    torch.testing.assert_close(small[0, 0, 0, 0], image[0, 0, :2, :2].mean())


def test_gaussian_maps_equal_their_naive_twin() -> None:
    points = torch.rand(2, 3, 2, dtype=torch.float64) * 2 - 1
    maps = gaussian_maps(points, (4, 5), 0.01)
    for b in range(2):
        for k in range(3):
            for i in range(4):
                for j in range(5):
                    dx = 2 * j / 4 - 1 - points[b, k, 0]
                    dy = 2 * i / 3 - 1 - points[b, k, 1]
                    torch.testing.assert_close(maps[b, k, i, j], torch.exp(-0.5 * (dx**2 + dy**2) / 0.01))


def test_a_gaussian_peaks_at_its_point() -> None:
    maps = gaussian_maps(torch.tensor([[[0.5, -1.0]]]), (5, 9), 0.01)
    assert maps[0, 0, 0, 6] == 1
    assert maps.argmax() == 6


def test_gradients_of_warps_and_gaussians() -> None:
    rng = torch.Generator().manual_seed(1)
    image = torch.rand(1, 1, 4, 4, generator=rng, dtype=torch.float64, requires_grad=True)
    grid = (torch.rand(1, 2, 2, 2, generator=rng, dtype=torch.float64) - 0.5).requires_grad_()
    assert gradcheck(warp, (image, grid))
    points = (torch.rand(1, 2, 2, generator=rng, dtype=torch.float64) - 0.5).requires_grad_()
    assert gradcheck(lambda p: gaussian_maps(p, (3, 4), 0.1), (points,))
