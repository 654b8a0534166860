"""Convolutions of 3 x 3 with a quarter of the multiplications, for wide float32 images on a CPU.

An output tile of 4 x 4 pixels depends on 6 x 6 pixels of the input. Rows of both are polynomials, known from
their values at six points: 36 products in place of 144, between changes of basis. Those take passes over
memory, which do not grow with the square of the channels, so only wide layers gain.

The points decide how much is lost to rounding. With the usual ones (0, 1, -1, 2, -2, infinity) the error is
about four times as large as with those here, which add a third to that of a direct convolution (256 channels,
largest value).
Source: "Fast Algorithms for Convolutional Neural Networks" (Lavin and Gray, CVPR 2016), section 4.1.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

TILE = 4  # px, sides of an output tile
KERNEL = 3  # px
WINDOW = TILE + KERNEL - 1  # px of the input below a tile; also the number of points, infinity among them
POINTS = (0.0, 2 / 3, -2 / 3, 3 / 2, -3 / 2)  # and infinity
FEWEST_CHANNELS = 256  # in and out; with 128 the passes over memory take what the products save
FEWEST_PIXELS = 32 * 32  # below, reading four times the weights takes what the products save


def worth_it(conv: nn.Conv2d) -> bool:
    """Whether this layer can run as ``WinogradConv``, and is quicker for it on large images."""
    plain = conv.stride == (1, 1) and conv.dilation == (1, 1) and conv.groups == 1
    shape = conv.kernel_size == (KERNEL, KERNEL) and conv.padding == (1, 1)
    wide = min(conv.in_channels, conv.out_channels) >= FEWEST_CHANNELS
    return plain and shape and wide and conv.weight.dtype == torch.float32


def fits(height: int, width: int) -> bool:
    """Whether images of this size, in px, are large enough and made of whole tiles."""
    return height * width >= FEWEST_PIXELS and height % TILE == 0 and width % TILE == 0


class WinogradConv(nn.Module):
    """A convolution that is ``worth_it``, on images that it ``fits``: NHWC in and out, (B, C, H, W).

    The weights of each of the 36 products lie as oneDNN reads them, after the first call.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        to_points, kernel_to_points, from_points = (
            torch.from_numpy(np.kron(each, each)) for each in transforms()
        )
        self._bias = None if conv.bias is None else conv.bias.detach()
        self._to_points, self._from_points = to_points.float(), from_points.float()  # (36, 36), (16, 36)
        with torch.no_grad():
            # (cout, cin, 3, 3) -> (cout, cin, 9) -> (9, cout, cin) -> (9, cout * cin)
            kernels = conv.weight.detach().flatten(2).movedim(2, 0).flatten(1).double()
            # (36, 9) @ (9, cout * cin) -> (36 * cout, cin, 1, 1)
            products = (kernel_to_points @ kernels).float().view(-1, conv.in_channels, 1, 1)
        self._weight = products
        self._channels = conv.out_channels
        self._is_packed = False

    def forward(self, x: Tensor) -> Tensor:
        # One image after the other: the values of one at its points still lie in the caches.
        return torch.cat([self._convolve(image) for image in torch.split(x, 1)])

    def _convolve(self, image: Tensor) -> Tensor:
        _, channels, height, width = image.shape
        rows, columns = height // TILE, width // TILE
        padded = F.pad(image.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))[0]  # (1, C, H, W) -> (H + 2, W + 2, C)
        down, right, _ = padded.stride()
        windows = padded.as_strided(
            (rows, columns, WINDOW, WINDOW, channels), (TILE * down, TILE * right, down, right, 1)
        )
        values = self._to_points @ windows.reshape(rows * columns, WINDOW**2, channels)  # (tiles, 36, C)
        # (tiles, 36, C) -> (1, rows, columns, 36 * C) -> (1, 36 * C, rows, columns), a group for each point
        grouped = values.view(1, rows, columns, -1).permute(0, 3, 1, 2)
        settings = ([0, 0], [1, 1], [1, 1], WINDOW**2)
        if not self._is_packed:
            self._weight = torch.ops.mkldnn._reorder_convolution_weight(
                self._weight, *settings, list(grouped.shape)
            )
            self._is_packed = True
        products = torch.ops.mkldnn._convolution_pointwise(
            grouped, self._weight, None, *settings, "none", [], ""
        )
        # (1, 36 * cout, rows, columns) -> (tiles, 36, cout)
        products = products.permute(0, 2, 3, 1).reshape(rows * columns, WINDOW**2, self._channels)
        tiles = self._from_points @ products  # (tiles, 16, cout)
        if self._bias is not None:
            tiles += self._bias
        # (tiles, 16, cout) -> (rows, columns, 4, 4, cout) -> (rows, 4, columns, 4, cout)
        tiles = tiles.view(rows, columns, TILE, TILE, self._channels).transpose(1, 2)
        out: Tensor = tiles.reshape(1, height, width, self._channels)
        return out.permute(0, 3, 1, 2)  # (1, H, W, cout) -> (1, cout, H, W)


def transforms() -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Changes of basis along one axis, each to be applied from the left.

    A point's rows for the input and for the kernel are scaled against each other, by powers of two, so that
    both have values of about the same size.

    Returns:
        Input to values at the points (6, 6), kernel to such values (6, 3), products of both to output (4, 6).
    """
    points = np.array(POINTS)
    others = [np.delete(points, number) for number in range(len(points))]
    to_points = np.zeros((WINDOW, WINDOW))
    for number, rest in enumerate(others):
        to_points[number, :-1] = np.poly(rest)[::-1]
    to_points[-1] = np.poly(points)[::-1]
    kernel_to_points = np.zeros((WINDOW, KERNEL))
    divisors = np.array([np.prod(point - rest) for point, rest in zip(points, others, strict=True)])
    kernel_to_points[:-1] = np.vander(points, KERNEL, increasing=True) / divisors[:, None]
    kernel_to_points[-1, -1] = 1
    from_points = np.zeros((TILE, WINDOW))
    from_points[:, :-1] = np.vander(points, TILE, increasing=True).T
    from_points[-1, -1] = 1
    ratio = np.abs(to_points).sum(axis=1) / np.abs(kernel_to_points).sum(axis=1)
    balance = 2.0 ** np.round(np.log2(np.sqrt(ratio)))[:, None]
    return to_points / balance, kernel_to_points * balance, from_points
