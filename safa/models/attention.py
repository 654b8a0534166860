"""Contextual attention: every patch of a feature map is rebuilt from the patches that resemble it.

Shapes: B batch, C channels, L key positions, P query positions (both h x w, row by row), s rate.
The paper convolves with kernels that are patches. Neighbouring patches overlap, so those sums have common
parts, and each is computed once here:

* The product of two k x k patches is a sum of k * k products of pixels, and each of them is an entry of one
  Gram matrix of all pixels, found along its diagonal. (``_scores``)
* A patch of 2s x 2s at stride s is 2 x 2 cells of s x s pixels. What four overlapping patches add to a cell
  has the same cell of the background in common wherever key and query differ by the same step, so the weights
  are summed along diagonals and multiplied with the cells once. (``_rebuild``)

That is a fifth of the paper's multiplications, for the same numbers up to rounding.
Source: "Generative Image Inpainting with Contextual Attention" (Yu et al., CVPR 2018), section 4;
docs/model.md, section 6.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from safa.config.model import AttentionConfig
from safa.models.matrix_product import matrix_product
from safa.precision import at_least_float32

NORM_EPSILON = 1e-4  # added to every squared entry of a key
OVERLAP = 4  # value patches are 2s x 2s at stride s, so four of them cover each pixel


class ContextualAttention(nn.Module):
    """Attend from ``foreground`` to ``background``, both (B, C, H, W); returns (B, C, H, W).

    ``mask`` (B, 1, H, W) in [0, 1] says how freely a position of the background may be copied from: 1 fully,
    0 not at all. H and W must be divisible by the rate.
    """

    fuse_weight: Tensor

    def __init__(self, config: AttentionConfig) -> None:
        super().__init__()
        self.rate = config.rate
        self.kernel_size = config.kernel_size
        self.softmax_scale = config.softmax_scale
        # Released checkpoints carry the identity kernel of the fusion. Convolving with it adds diagonal
        # neighbours, which ``_add_diagonals`` does without a convolution; only its size is read.
        kernel = torch.eye(config.fuse_kernel, device="cpu")[None, None]  # (1, 1, 3, 3)
        self.register_buffer("fuse_weight", kernel)

    def forward(self, foreground: Tensor, background: Tensor, mask: Tensor) -> Tensor:
        height, width = foreground.shape[-2:]
        if height % self.rate or width % self.rate:
            raise ValueError(
                f"{height} x {width} features cannot be divided by the attention rate {self.rate}"
            )
        h, w = height // self.rate, width // self.rate

        scores = self._scores(foreground, background)  # (B, L, P)
        scores = self._fuse(scores, h, w)
        allowed = self._allowed(mask)  # (B, L, 1), [0, 1]
        attention = F.softmax(scores * allowed * self.softmax_scale, dim=1) * allowed  # (B, L, P)

        return self._rebuild(background, attention, h, w)

    def _scores(self, foreground: Tensor, background: Tensor) -> Tensor:
        """Cosine-like similarity (B, L, P): query patches against keys of unit length."""
        queries = _downsample(foreground, self.rate)  # (B, C, h, w)
        keys = queries if background is foreground else _downsample(background, self.rate)
        h, w = keys.shape[-2:]
        gram = matrix_product(keys.flatten(2).transpose(1, 2), queries.flatten(2))  # (B, L, C) @ (B, C, P)
        products = _add_patches(at_least_float32(gram), h, w, self.kernel_size)
        # Every entry of a patch has the epsilon, those outside the image too.
        entries = keys.shape[1] * self.kernel_size**2
        squares = at_least_float32(keys).square().sum(dim=1, keepdim=True)  # (B, 1, h, w)
        means = _patch_means(squares, self.kernel_size)  # (B, 1, h, w)
        sums = means * self.kernel_size**2 + NORM_EPSILON * entries  # (B, 1, h, w)
        # (B, 1, h, w) -> (B, 1, L) -> (B, L, 1)
        return products * sums.rsqrt().flatten(2).transpose(1, 2)

    def _fuse(self, scores: Tensor, h: int, w: int) -> Tensor:
        """Reward matches that continue in the neighbours, along rows and then along columns.

        The neighbour behind the end of a row is the start of the next one, and likewise for columns, as in
        the released implementation.
        """
        size = self.fuse_weight.shape[-1]
        return _add_along_columns(_add_along_diagonal(scores, size, 1), h, w, size)

    def _allowed(self, mask: Tensor) -> Tensor:
        """Mean of the mask over each key patch, (B, L, 1); outside the image counts as 0."""
        means = _patch_means(_downsample(mask, self.rate), self.kernel_size)
        return means.flatten(2).transpose(1, 2)  # (B, 1, h, w) -> (B, 1, L) -> (B, L, 1)

    def _rebuild(self, background: Tensor, attention: Tensor, h: int, w: int) -> Tensor:
        """Overlapping patches of the background, weighed by attention (B, L, P): (B, C, H, W)."""
        rate = self.rate
        before, after = rate // 2, rate - rate // 2  # "same" padding of 2s x 2s patches at stride s
        padded = F.pad(background, (before, after, before, after))  # (B, C, H + s, W + s)
        # (B, C, H + s, W + s) -> (B, C*s*s, h + 1, w + 1) -> (B, C*s*s, cells)
        cells = F.pixel_unshuffle(padded, rate).flatten(2)
        weights = _add_overlaps(attention, h, w).to(cells.dtype)  # (B, cells, cells)
        # (B, C*s*s, cells) @ (B, cells, cells) -> (B, C*s*s, h + 1, w + 1) -> (B, C, H + s, W + s)
        rebuilt = matrix_product(cells, weights).reshape(-1, cells.shape[1], h + 1, w + 1)
        out = F.pixel_shuffle(rebuilt, rate)
        return out[..., before : before + h * rate, before : before + w * rate]  # (B, C, H, W)


def _downsample(x: Tensor, rate: int) -> Tensor:
    """Nearest-neighbour downsampling by a whole rate that divides the size."""
    return x[..., ::rate, ::rate]  # (B, C, H, W) -> (B, C, H/s, W/s)


def _patch_means(x: Tensor, size: int) -> Tensor:
    """Mean of x (B, C, h, w) over the patch around each pixel, zeros outside: the same shape."""
    before = (size - 1) // 2
    padded = F.pad(x, (before, size - 1 - before, before, size - 1 - before))  # (B, C, h + size - 1, ...)
    return F.avg_pool2d(padded, size, stride=1)


def _add_patches(gram: Tensor, h: int, w: int, size: int) -> Tensor:
    """Products of pixels (B, L, P) to products of the patches around them, zeros outside: (B, L, P).

    ``out[y, x, v, u] = sum of gram[y + i, x + j, v + i, u + j]`` over the offsets i, j of a patch.
    """
    before = (size - 1) // 2
    image = gram.reshape(-1, h, w, h, w)  # (B, L, P) -> (B, h, w, h, w)
    rows = image
    for j in range(-before, size - before):
        if j != 0:
            here, there = _shifted(w, j)
            moved = image[:, :, there][..., there]  # (B, h, w - |j|, h, w - |j|)
            outside = (here.start, w - here.stop)
            rows = rows + F.pad(moved, (*outside, 0, 0, *outside))
    return _add_along_diagonal(rows.flatten(3).flatten(1, 2), size, w)  # (B, h, w, h, w) -> (B, L, P)


def _add_along_diagonal(scores: Tensor, size: int, step: int) -> Tensor:
    """``out[l, p] = sum of scores[l + k*step, p + k*step]`` over ``size`` k around 0, zeros outside."""
    before = (size - 1) // 2
    total = scores
    for k in range(-before, size - before):
        if k != 0:
            here, there = _shifted(scores.shape[1], k * step)
            outside = (here.start, scores.shape[1] - here.stop)
            total = total + F.pad(scores[:, there, there], (*outside, *outside))
    return total


def _add_along_columns(scores: Tensor, h: int, w: int, size: int) -> Tensor:
    """What ``_add_along_diagonal`` with step 1 does if positions are counted column by column."""
    # (B, h*w, h*w) -> (B, h, w, h, w) -> (B, w, h, w, h) -> (B, w*h, w*h)
    by_column = scores.reshape(-1, h, w, h, w).permute(0, 2, 1, 4, 3).flatten(3).flatten(1, 2)
    total = _add_along_diagonal(by_column, size, 1)
    # (B, w*h, w*h) -> (B, w, h, w, h) -> (B, h, w, h, w) -> (B, h*w, h*w)
    return total.reshape(-1, w, h, w, h).permute(0, 2, 1, 4, 3).flatten(3).flatten(1, 2)


def _add_overlaps(attention: Tensor, h: int, w: int) -> Tensor:
    """Weights of key patches for query patches (B, L, P) to weights of cells for cells (B, cells, cells).

    Patch (y, x) covers the cells (y, x), (y, x + 1), (y + 1, x) and (y + 1, x + 1); those of the key go where
    those of the query are. Four patches cover each cell, and it is the mean of what they say.
    """
    image = attention.reshape(-1, h, w, h, w)  # (B, L, P) -> (B, h, w, h, w)
    # (B, h, w, h, w) -> (B, h, w + 1, h, w + 1) -> (B, h * (w + 1), h * (w + 1))
    rows = (F.pad(image, (0, 1, 0, 0, 0, 1)) + F.pad(image, (1, 0, 0, 0, 1, 0))).flatten(3).flatten(1, 2)
    width = w + 1
    # (B, h * (w + 1), h * (w + 1)) -> (B, (h + 1) * (w + 1), (h + 1) * (w + 1))
    return (F.pad(rows, (0, width, 0, width)) + F.pad(rows, (width, 0, width, 0))) / OVERLAP


def _shifted(length: int, offset: int) -> tuple[slice, slice]:
    """The places that ``out[i] = x[i + offset]`` can fill, and where each comes from."""
    here = slice(max(0, -offset), min(length, length - offset))
    return here, slice(here.start + offset, here.stop + offset)
