"""The model rewritten for inference against the model as it is trained."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from safa.inference.folding import PackedConv, few_channels, folded
from safa.models.safa import Safa

CPU = torch.device("cpu")


@pytest.fixture
def trained(model: Safa) -> Safa:
    """The model with BatchNorm layers that do something."""
    rng = torch.Generator().manual_seed(0)
    network = copy.deepcopy(model).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2, generator=rng)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2, generator=rng)  # type: ignore[union-attr]
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=rng)
            nn.init.normal_(module.bias, 0, 0.2, generator=rng)
    return network


@torch.inference_mode()
def predict(network: Safa, precision: torch.dtype = torch.float32) -> torch.Tensor:
    size = network.config.image_size
    images = torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        source = network.prepare_source(images[:1])
        return network.reenact(source, network.analyse(images[1:])).prediction


def test_pictures_stay_the_same(trained: Safa) -> None:
    before = copy.deepcopy(trained.state_dict())
    fast = folded(trained, CPU)
    expected = predict(trained)
    for _ in range(2):  # weights are packed in the first call
        torch.testing.assert_close(predict(fast), expected, atol=1e-4, rtol=0)
    assert expected.std() > 0.005
    torch.testing.assert_close(trained.state_dict(), before, atol=0, rtol=0)  # the model stays as it is
    assert any(isinstance(module, PackedConv) for module in fast.modules())


def test_half_precision_stays_near(trained: Safa) -> None:
    half = predict(folded(trained, CPU, torch.bfloat16), torch.bfloat16)
    exact, autocast = predict(trained), predict(trained, torch.bfloat16)
    assert half.dtype == torch.float32
    assert (half - exact).abs().mean() < 1.5 * (autocast - exact).abs().mean()


@pytest.mark.parametrize("size", [(8, 8), (10, 6)])
def test_few_channels_as_one_convolution_of_stride_2(size: tuple[int, int]) -> None:
    conv = nn.Conv2d(4, 3, 7, padding=3)
    x = torch.randn(2, 4, *size)
    torch.testing.assert_close(few_channels(conv)(x), conv(x), atol=1e-5, rtol=1e-5)


def test_packed_weights_serve_images_of_another_size() -> None:
    conv = nn.Conv2d(16, 32, 3, padding=1).requires_grad_(False)
    packed = PackedConv(conv)
    for side in (8, 24, 5):
        x = torch.randn(1, 16, side, side)
        torch.testing.assert_close(packed(x), conv(x), atol=1e-5, rtol=1e-5)
