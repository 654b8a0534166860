from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from safa.config.model import HourglassConfig
from safa.models.blocks import Hourglass, ImagePyramid, ResBlock, UpConv


def test_hourglass_layout_is_the_published_one() -> None:
    glass = Hourglass(HourglassConfig(block_expansion=32, num_blocks=5, max_features=1024), in_channels=3)
    down = [tuple(block.conv.weight.shape[:2]) for block in glass.encoder.down_blocks]
    up = [tuple(block.conv.weight.shape[:2]) for block in glass.decoder.up_blocks]
    assert down == [(64, 3), (128, 64), (256, 128), (512, 256), (1024, 512)]
    assert up == [(512, 1024), (256, 1024), (128, 512), (64, 256), (32, 128)]
    assert glass.out_channels == 35


def test_hourglass_keeps_size_and_passes_its_input_through() -> None:
    glass = Hourglass(HourglassConfig(block_expansion=4, num_blocks=2, max_features=8), in_channels=3)
    x = torch.rand(2, 3, 16, 8)
    out = glass(x)
    assert out.shape == (2, glass.out_channels, 16, 8)
    torch.testing.assert_close(out[:, -3:], x)


def test_hourglass_refuses_a_size_that_does_not_divide() -> None:
    glass = Hourglass(HourglassConfig(block_expansion=4, num_blocks=2, max_features=8), in_channels=3)
    with pytest.raises(RuntimeError):
        glass(torch.rand(1, 3, 18, 18))


def test_res_block_without_weights_is_the_identity() -> None:
    block = ResBlock(3)
    torch.nn.init.zeros_(block.conv2.weight)
    torch.nn.init.zeros_(block.conv2.bias)
    x = torch.randn(1, 3, 4, 4)
    torch.testing.assert_close(block(x), x)


def test_pyramid_is_looked_up_by_scale() -> None:
    image = torch.rand(1, 3, 32, 32)
    pyramid = ImagePyramid((1.0, 0.5, 0.25))(image)
    small, full = pyramid.at((0.25, 1.0))
    assert small.shape[-1] == 8
    torch.testing.assert_close(full, image)
    with pytest.raises(ValueError, match="not in tuple"):
        pyramid.at((0.125,))


def test_pyramid_blurs_before_it_drops_pixels() -> None:
    stripes = torch.zeros(1, 3, 64, 64)
    stripes[..., ::2] = 1.0
    quarter = ImagePyramid((0.25,))(stripes).images[0][..., 2:-2, 2:-2]
    assert (quarter - 0.5).abs().max() < 0.02
    assert stripes[..., ::4, ::4].min() == 1  # what would be left without the blur


@pytest.mark.parametrize("size", [(2, 3), (7, 9), (8, 16)])
def test_up_conv_is_a_convolution_of_the_enlarged_image(size: tuple[int, int]) -> None:
    """Twin: enlarge, then convolve; outputs and all gradients. (2, 3) is small enough for the plain way."""
    rng = torch.Generator().manual_seed(0)
    conv = UpConv(3, 5).double()
    x = torch.randn(2, 3, *size, generator=rng, dtype=torch.float64, requires_grad=True)
    out = conv(x)
    large = F.interpolate(x, scale_factor=2, mode="nearest")
    twin = F.conv2d(large, conv.weight, conv.bias, padding=1)
    torch.testing.assert_close(out, twin, atol=1e-12, rtol=0)
    weights = torch.randn(out.shape, generator=rng, dtype=torch.float64)
    inputs = (x, conv.weight, conv.bias)
    ours = torch.autograd.grad((out * weights).sum(), inputs)
    theirs = torch.autograd.grad((twin * weights).sum(), inputs)
    torch.testing.assert_close(ours, theirs, atol=1e-11, rtol=0)


def test_up_conv_takes_four_multiplications_in_place_of_nine() -> None:
    conv, x = UpConv(8, 8), torch.randn(1, 8, 32, 32)
    with FlopCounterMode(display=False) as ours:
        conv(x)
    with FlopCounterMode(display=False) as plain:
        F.conv2d(F.interpolate(x, scale_factor=2, mode="nearest"), conv.weight, conv.bias, padding=1)
    assert ours.get_total_flops() < plain.get_total_flops() * 0.5
