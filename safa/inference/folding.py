"""A model rewritten for inference: the same pictures up to rounding, in fewer passes over memory.

BatchNorm is a fixed scale and shift once training is over, so it goes into the weights of the convolution
before it. Images and weights are laid out as NHWC. On a CPU, weights are also converted once, not in each
call, to the precision and to the blocks that oneDNN's convolutions read.
"""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from safa.inference.winograd import WinogradConv, fits, worth_it
from safa.models.blocks import (
    FEWEST_PIXELS,
    DownBlock,
    ResBlock,
    SameBlock,
    UpBlock,
    UpConv,
    fold_norm,
    four_kernels,
)
from safa.models.generator import GadeUpBlock
from safa.models.safa import Safa

SHARED_HEADS = ("kp", "jacobian", "mask", "occlusion", "occlusion1")  # run as one convolution by their owner


def folded(model: Safa, device: torch.device, precision: torch.dtype = torch.float32) -> Safa:
    """Copy a model for inference on a device; the model itself stays as it is.

    Args:
        precision: of the weights of convolutions and linear layers; below float32 the copy has to run under
            autocast. Everything else keeps float32.
    """
    fast = norms_folded(model)
    fast.generator.final = few_channels(fast.generator.final)  # type: ignore[assignment]
    fast.generator.bottleneck = nn.Sequential(ChannelsLast(), *fast.generator.bottleneck)
    for module in fast.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.to(precision)
    fast.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if device.type == "cpu" and _can_pack(precision):
        for module in list(fast.modules()):
            _pack(module)
    return fast


def norms_folded(model: Safa) -> Safa:
    """Copy a model with its BatchNorm layers in the weights of the convolutions, and nothing else changed."""
    # Names of its own for the same memory: nothing below writes into a tensor that is there already.
    tensors: dict[int, Any] = {id(each): nn.Parameter(each.detach(), False) for each in model.parameters()}
    tensors |= {id(each): each.detach() for each in model.buffers()}
    copied = copy.deepcopy(model, tensors).eval()
    with torch.no_grad():
        for module in list(copied.modules()):
            _fold_norms(module)
    return copied


def _fold_norms(module: nn.Module) -> None:
    """Fold the BatchNorm layers that this module applies right behind a convolution of its own."""
    if isinstance(module, SameBlock | DownBlock | UpBlock | GadeUpBlock):
        fold_norm(module, "conv", "norm")
    elif isinstance(module, ResBlock):
        fold_norm(module, "conv1", "norm2")  # norm1 stands before a ReLU, and stays
    elif isinstance(module, nn.Sequential):
        for (first, conv), (second, norm) in pairwise(list(module.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                fold_norm(module, first, second)


class ChannelsLast(nn.Module):
    """The same image, laid out as NHWC; a warped image comes out as NCHW."""

    def forward(self, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=torch.channels_last)


def few_channels(conv: nn.Conv2d) -> nn.Sequential:
    """Rewrite a convolution with few output channels, for images with an even number of rows and columns.

    Vector units work on 16 channels at once, of which 3 colours fill 3. Here 2 x 2 neighbouring pixels are 12
    channels of a convolution of stride 2 whose kernel is larger by one pixel, with zeros.
    """
    channels, size = conv.out_channels, conv.kernel_size[0]
    large = nn.Conv2d(conv.in_channels, 4 * channels, size + 1, stride=2, padding=size // 2)
    assert conv.bias is not None
    assert large.bias is not None
    with torch.no_grad():
        large.weight.zero_()
        for row in range(2):
            for column in range(2):
                kernels = large.weight[2 * row + column :: 4]  # (C, cin, size + 1, size + 1)
                kernels[:, :, row : row + size, column : column + size] = conv.weight
        large.bias.copy_(conv.bias.repeat_interleave(4))
    return nn.Sequential(large.requires_grad_(False), nn.PixelShuffle(2))


# ---- weights in oneDNN's layout ----------------------------------------------------------------------------


def _can_pack(precision: torch.dtype) -> bool:
    """Whether oneDNN is here and packs this precision; bfloat16 wants AVX-512 or AVX-NE-CONVERT."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return precision == torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _pack(module: nn.Module) -> None:
    """Replace the convolutions that this module calls."""
    for name, child in list(module.named_children()):
        if isinstance(child, UpConv):
            setattr(module, name, PackedUpConv(child))
        elif isinstance(child, nn.Conv2d) and name not in SHARED_HEADS:
            setattr(module, name, PackedWideConv(child) if worth_it(child) else PackedConv(child))


class PackedConv(nn.Module):
    """A convolution whose weights lie as oneDNN reads them, after the first call; NHWC in and out.

    The layout depends on the size of the image. ``nn.Conv2d`` makes it anew in each call, which takes longer
    than the convolution itself where the weights outweigh the image.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self._weight, self._bias = conv.weight.detach(), conv.bias
        self._settings = (list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups)
        self._is_packed = False

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self._weight.dtype)
        if not self._is_packed:
            self._weight = torch.ops.mkldnn._reorder_convolution_weight(
                self._weight, *self._settings, list(x.shape)
            )
            self._is_packed = True
        out: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, self._weight, self._bias, *self._settings, "none", [], ""
        )
        return out


class PackedWideConv(nn.Module):
    """A wide convolution of 3 x 3; the size of the first image decides how it runs."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self._conv: nn.Conv2d | None = conv
        self._way: nn.Module | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self._conv is not None:
            self._way = WinogradConv(self._conv) if fits(x.shape[-2], x.shape[-1]) else PackedConv(self._conv)
            self._conv = None
        assert self._way is not None
        out: Tensor = self._way(x)
        return out


class PackedUpConv(nn.Module):
    """``UpConv`` with packed weights; the size of the first image decides which of the two ways is taken."""

    def __init__(self, conv: UpConv) -> None:
        super().__init__()
        self._conv: nn.Conv2d | None = conv
        self._large: PackedConv | None = None
        self._four: PackedConv | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self._conv is not None:
            if x.shape[-2] * x.shape[-1] < FEWEST_PIXELS:
                self._large = PackedConv(self._conv)
            else:
                self._four = PackedConv(_four_convs(self._conv))
            self._conv = None
        if self._four is not None:
            cells = self._four(x)  # (B, 4 * cout, H + 1, W + 1)
            # (B, cout, 2H + 2, 2W + 2) -> (B, cout, 2H, 2W)
            return F.pixel_shuffle(cells, 2)[..., 1:-1, 1:-1]
        assert self._large is not None
        out: Tensor = self._large(F.interpolate(x, scale_factor=2, mode="nearest"))
        return out


def _four_convs(conv: nn.Conv2d) -> nn.Conv2d:
    """The convolution of ``upsampled_conv``, with the sums of the weights computed in float32."""
    dtype = conv.weight.dtype
    four = nn.Conv2d(conv.in_channels, 4 * conv.out_channels, 2, padding=1, dtype=dtype).requires_grad_(False)
    assert conv.bias is not None
    assert four.bias is not None
    four.weight.copy_(four_kernels(conv.weight.float()))
    four.bias.copy_(conv.bias.repeat_interleave(4))
    return four
