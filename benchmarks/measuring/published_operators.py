"""The operators as they were published, in place of ours: what benchmarks call the reference.

Attention convolves with kernels that are patches (Yu et al., 2018); upsampling repeats pixels, and a 3 x 3
convolution follows. Names and weights stay. Measured beside the authors' code, a model of these operators is
as fast as theirs, operation for operation (1.01).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from safa.models.attention import NORM_EPSILON, OVERLAP, ContextualAttention
from safa.models.blocks import UpConv


def use_published_operators(model: nn.Module) -> None:
    """Change the operators of a model in place."""
    for module in model.modules():
        if type(module) is UpConv:
            module.__class__ = RepeatAndConv
        elif type(module) is ContextualAttention:
            module.__class__ = PatchAttention


class RepeatAndConv(UpConv):
    """Nearest x2 and the convolution, one after the other."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.Conv2d.forward(self, F.interpolate(x, scale_factor=2, mode="nearest"))


class PatchAttention(ContextualAttention):
    """One convolution by key patches and one transposed convolution by value patches for each sample."""

    def forward(self, foreground: Tensor, background: Tensor, mask: Tensor) -> Tensor:
        rate, size = self.rate, self.kernel_size
        queries, keys, allowed = (x[..., ::rate, ::rate] for x in (foreground, background, mask))
        h, w = queries.shape[-2:]
        values = _patches(background, 2 * rate, rate)  # (B, L, C, 2s, 2s)
        key_patches = _patches(keys, size, 1)  # (B, L, C, k, k)
        means = _patches(allowed, size, 1).mean(dim=(2, 3, 4))  # (B, L)
        outs = []
        for query, patches, value, mean in zip(queries, key_patches, values, means, strict=True):
            norms = (patches.square() + NORM_EPSILON).sum(dim=(1, 2, 3), keepdim=True).sqrt()
            scores = F.conv2d(query[None], patches / norms, padding=size // 2)  # (1, L, h, w)
            scores = self._fused(scores, h, w)
            weight = mean[None, :, None, None]
            weights = F.softmax(scores * weight * self.softmax_scale, dim=1) * weight
            outs.append(F.conv_transpose2d(weights, value, stride=rate, padding=rate // 2) / OVERLAP)
        return torch.cat(outs)

    def _fused(self, scores: Tensor, h: int, w: int) -> Tensor:
        pad = self.fuse_weight.shape[-1] // 2
        kernel = self.fuse_weight.to(scores)
        rows = F.conv2d(scores.reshape(1, 1, h * w, h * w), kernel, padding=pad)
        columns = rows.reshape(h, w, h, w).permute(1, 0, 3, 2).reshape(1, 1, h * w, h * w)
        both = F.conv2d(columns, kernel, padding=pad).reshape(w, h, w, h)
        return both.permute(1, 0, 3, 2).reshape(1, h * w, h, w)


def _patches(x: Tensor, size: int, stride: int) -> Tensor:
    """Patches (B, L, C, size, size) of (B, C, H, W), one for each step of the stride."""
    first = (size - stride) // 2
    last = size - stride - first
    columns = F.unfold(F.pad(x, (first, last, first, last)), size, stride=stride)  # (B, C*size*size, L)
    return columns.transpose(1, 2).reshape(len(x), -1, x.shape[1], size, size)
