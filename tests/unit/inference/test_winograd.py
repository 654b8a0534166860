"""A convolution by values at points equals the convolution itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from safa.inference.folding import PackedConv, PackedWideConv, folded
from safa.inference.winograd import KERNEL, TILE, WINDOW, WinogradConv, fits, transforms, worth_it
from safa.models.safa import Safa

WIDE = 256

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="no oneDNN here")


def conv(cin: int = WIDE, cout: int = WIDE, bias: bool = True) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(cin, cout, KERNEL, padding=1, bias=bias).requires_grad_(False)


def image(cin: int, height: int, width: int, count: int = 1) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(count, cin, height, width).contiguous(memory_format=torch.channels_last)


def exact(layer: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    bias = None if layer.bias is None else layer.bias.double()
    return F.conv2d(x.double(), layer.weight.double(), bias, padding=1)


def test_the_changes_of_basis_compute_a_correlation() -> None:
    to_points, kernel_to_points, from_points = transforms()
    rng = np.random.default_rng(0)
    row, kernel = rng.normal(size=WINDOW), rng.normal(size=KERNEL)
    ours = from_points @ ((to_points @ row) * (kernel_to_points @ kernel))
    expected = [row[start : start + KERNEL] @ kernel for start in range(TILE)]
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize(("height", "width", "count"), [(32, 32, 1), (32, 64, 1), (64, 36, 2)])
@pytest.mark.parametrize("bias", [True, False])
def test_it_equals_the_convolution(height: int, width: int, count: int, bias: bool) -> None:
    layer, x = conv(bias=bias), image(WIDE, height, width, count)
    with torch.inference_mode():
        ours = WinogradConv(layer)
        again = ours(x), ours(x)  # the weights are packed in the first call
        direct = layer(x)
    expected = exact(layer, x)
    for out in again:
        assert out.is_contiguous(memory_format=torch.channels_last)
        assert (out - expected).abs().max() < 2 * (direct - expected).abs().max()


def test_other_channels_in_than_out() -> None:
    layer, x = conv(WIDE + 64, WIDE), image(WIDE + 64, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(WinogradConv(layer)(x), exact(layer, x).float(), rtol=0, atol=2e-5)


def test_which_layers_are_worth_it() -> None:
    assert worth_it(conv())
    other = [
        conv(WIDE, WIDE // 2),
        conv(WIDE // 2, WIDE),
        nn.Conv2d(WIDE, WIDE, 3, padding=0),
        nn.Conv2d(WIDE, WIDE, 3, padding=1, stride=2),
        nn.Conv2d(WIDE, WIDE, 3, padding=2, dilation=2),
        nn.Conv2d(WIDE, WIDE, 3, padding=1, groups=2),
        nn.Conv2d(WIDE, WIDE, 5, padding=2),
        conv().to(torch.bfloat16),
    ]
    assert not any(worth_it(each) for each in other)


def test_which_images_it_fits() -> None:
    assert fits(32, 32)
    assert not fits(16, 16)
    assert not fits(33, 64)
    assert not fits(64, 34)


@pytest.mark.parametrize(("size", "kind"), [(32, WinogradConv), (16, PackedConv), (34, PackedConv)])
def test_the_first_image_decides(size: int, kind: type[nn.Module]) -> None:
    layer, x = conv(), image(WIDE, size, size)
    packed = PackedWideConv(layer)
    with torch.inference_mode():
        torch.testing.assert_close(packed(x), exact(layer, x).float(), rtol=0, atol=2e-5)
    assert isinstance(packed._way, kind)


def test_the_engine_uses_it_for_its_wide_layers(model: Safa) -> None:
    model.generator.bottleneck.add_module("wide", conv())
    kinds = {name: type(each) for name, each in folded(model, torch.device("cpu")).named_modules()}
    wide = [name for name, kind in kinds.items() if kind is PackedWideConv]
    assert len(wide) == 1
    assert wide[0].startswith("generator.bottleneck")
