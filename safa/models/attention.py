"""Contextual attention: every patch of a feature map is rebuilt from the patches that resemble it.

Shapes: B batch, C channels, L key patches, P query positions, D entries of a patch, s rate.
The whole batch goes through two batched matrix products; the convolutions with per-sample kernels of the
paper are the same sums written differently.
Source: "Generative Image Inpainting with Contextual Attention" (Yu et al., CVPR 2018), section 4;
docs/model.md, section 6.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from safa.config.model import AttentionConfig

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
        kernel = torch.eye(config.fuse_kernel)[None, None]  # (1, 1, 3, 3)
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

        values = _patches(background, 2 * self.rate, self.rate)  # (B, D, L), D = C * 2s * 2s
        return _overlap_add(values @ attention, (height, width), 2 * self.rate, self.rate) / OVERLAP

    def _scores(self, foreground: Tensor, background: Tensor) -> Tensor:
        """Cosine-like similarity (B, L, P): query patches against keys of unit length."""
        queries = _patches(_downsample(foreground, self.rate), self.kernel_size, 1)  # (B, D, P)
        if background is foreground:
            keys = queries
        else:
            # (B, D, L), D = C * 3 * 3
            keys = _patches(_downsample(background, self.rate), self.kernel_size, 1)
        norm = (keys.square() + NORM_EPSILON).sum(dim=1).sqrt()  # (B, L)
        return (keys / norm.unsqueeze(1)).transpose(1, 2) @ queries  # (B, L, D) @ (B, D, P) -> (B, L, P)

    def _fuse(self, scores: Tensor, h: int, w: int) -> Tensor:
        """Reward matches that continue in the neighbours, along rows and then along columns."""
        size = self.fuse_weight.shape[-1]
        fused = _add_diagonals(scores, size)
        fused = _add_diagonals(_swap_order(fused, h, w), size)
        return _swap_order(fused, w, h)

    def _allowed(self, mask: Tensor) -> Tensor:
        """Mean of the mask over each key patch, (B, L, 1); outside the image counts as 0."""
        # (B, D, L) -> (B, L) -> (B, L, 1)
        return _patches(_downsample(mask, self.rate), self.kernel_size, 1).mean(dim=1).unsqueeze(-1)


def _downsample(x: Tensor, rate: int) -> Tensor:
    """Nearest-neighbour downsampling by a whole rate that divides the size."""
    return x[..., ::rate, ::rate]  # (B, C, H, W) -> (B, C, H/s, W/s)


def _same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's "same" padding in pixels: (before, after), the smaller half before."""
    total = max(0, (-(-size // stride) - 1) * stride + kernel - size)
    return total // 2, total - total // 2


def _patches(x: Tensor, kernel: int, stride: int) -> Tensor:
    """All patches of x (B, C, H, W) with "same" padding: (B, C*kernel*kernel, positions)."""
    top, bottom = _same_padding(x.shape[-2], kernel, stride)
    left, right = _same_padding(x.shape[-1], kernel, stride)
    return F.unfold(F.pad(x, (left, right, top, bottom)), kernel, stride=stride)  # (B, C*k*k, positions)


def _overlap_add(patches: Tensor, size: tuple[int, int], kernel: int, stride: int) -> Tensor:
    """The transpose of ``_patches``: sum patches where they lie and crop the padding, (B, C, H, W)."""
    top, bottom = _same_padding(size[0], kernel, stride)
    left, right = _same_padding(size[1], kernel, stride)
    # (B, C*k*k, positions) -> (B, C, H + padding, W + padding)
    padded = F.fold(patches, (size[0] + top + bottom, size[1] + left + right), kernel, stride=stride)
    return padded[..., top : top + size[0], left : left + size[1]]  # (B, C, H, W)


def _swap_order(scores: Tensor, h: int, w: int) -> Tensor:
    """Renumber both axes of (B, h*w, h*w) from row-major to column-major order of an h x w image."""
    batch = scores.shape[0]
    # (B, h*w, h*w) -> (B, h, w, h, w) -> (B, w, h, w, h) -> (B, w*h, w*h)
    return scores.reshape(batch, h, w, h, w).permute(0, 2, 1, 4, 3).reshape(batch, w * h, w * h)


def _add_diagonals(scores: Tensor, size: int) -> Tensor:
    """Sum ``size`` neighbours along the main diagonal of (B, L, P): convolution with an identity kernel."""
    before = (size - 1) // 2
    total = scores
    for offset in range(-before, size - before):
        if offset != 0:
            total = total + _shift_diagonally(scores, offset)
    return total


def _shift_diagonally(scores: Tensor, offset: int) -> Tensor:
    """``out[i, j] = scores[i + offset, j + offset]``, zero outside."""
    if offset > 0:
        return F.pad(scores[:, offset:, offset:], (0, offset, 0, offset))
    return F.pad(scores[:, :offset, :offset], (-offset, 0, -offset, 0))
