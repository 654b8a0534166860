from __future__ import annotations

import dataclasses
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from safa.config.model import ModelConfig
from safa.geometry.grids import identity_grid
from safa.head.render import HeadRender
from safa.models.dense_motion import Motion
from safa.models.generator import Blend, GadeUpBlock, Generated, Generator
from safa.models.keypoints import Keypoints
from safa.tensor_tree import map_tensors

Inputs = tuple[Tensor, Keypoints, Keypoints, HeadRender, Tensor]


@pytest.fixture
def network(config: ModelConfig) -> Generator:
    torch.manual_seed(0)
    return Generator(config).eval()


def inputs_of(batch: int, rng: torch.Generator) -> Inputs:
    def image(channels: int) -> Tensor:
        return torch.rand(batch, channels, 64, 64, generator=rng)

    def keypoints() -> Keypoints:
        return Keypoints(torch.rand(batch, 3, 2, generator=rng) - 0.5, torch.eye(2).expand(batch, 3, 2, 2))

    mask = torch.ones(batch, 1, 64, 64)
    render = HeadRender(
        image(3), image(3), mask, mask, image(3), image(3), image(2), image(2), 0.2 * image(2) - 0.1
    )
    return image(3), keypoints(), keypoints(), render, torch.randn(batch, 1280, generator=rng)


@torch.no_grad()
def test_prediction_is_an_image_of_the_same_size(network: Generator, rng: torch.Generator) -> None:
    out: Generated = network(*inputs_of(2, rng))
    assert out.prediction.shape == out.deformed.shape == (2, 3, 64, 64)
    assert 0 <= out.prediction.min() <= out.prediction.max() <= 1


def test_the_render_reaches_the_prediction_pixel_by_pixel(config: ModelConfig, rng: torch.Generator) -> None:
    sizes = config.generator.model_copy(update={"render_features": True})
    torch.manual_seed(0)
    network = Generator(config.model_copy(update={"generator": sizes})).eval()
    torch.manual_seed(0)
    published = Generator(config).eval()
    inputs = inputs_of(1, rng)
    with torch.no_grad():  # it starts as the published network
        torch.testing.assert_close(network(*inputs).prediction, published(*inputs).prediction)
    assert network.render_encoder is not None
    torch.nn.init.normal_(network.render_encoder.large.weight)
    render = dataclasses.replace(inputs[3], reenact=inputs[3].reenact.clone().requires_grad_(True))
    motion = network.dense_motion_network(*inputs[:4])
    with patch.object(network.dense_motion_network, "forward", lambda *_: motion):  # the other way in
        network(*inputs[:3], render, inputs[4]).prediction[0, :, 20, 20].sum().backward()
    gradient = render.reenact.grad
    assert gradient is not None
    assert gradient[0, :, 20, 20].abs().max() > 0
    assert gradient[0, :, 20, 40].abs().max() == 0  # 7 x 7 of 3 x 3 of 3 x 3 sees 5 px to each side


@torch.no_grad()
def test_pixels_of_the_source_can_be_shown_as_they_are(config: ModelConfig, rng: torch.Generator) -> None:
    sizes = config.generator.model_copy(update={"source_pixels": True})
    network = Generator(config.model_copy(update={"generator": sizes})).eval()
    assert network.source_share is not None
    inputs = inputs_of(1, rng)
    motion: Motion = network.dense_motion_network(*inputs[:4])
    still = identity_grid(16, 16).expand(1, 16, 16, 2).clone()
    aside = still + torch.tensor([2 * 8 / 63, 0])  # every pixel from 8 px to its right

    def shown(grid: Tensor, blend: Blend | None = None) -> Tensor:
        moved = dataclasses.replace(motion, deformation=grid)
        with patch.object(network.dense_motion_network, "forward", lambda *_: moved):
            out: Generated = network(*inputs, blend=blend)
        return out.prediction

    torch.nn.init.zeros_(network.source_share.weight)
    torch.nn.init.constant_(network.source_share.bias, 1e4)  # type: ignore[arg-type]
    torch.testing.assert_close(shown(still), inputs[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(shown(aside)[..., :-8], inputs[0][..., 8:], atol=1e-4, rtol=0)
    other, features = torch.rand(1, 3, 64, 64, generator=rng), torch.randn(1, 16, 16, 16, generator=rng)
    halves = torch.cat([torch.zeros(1, 1, 64, 32), torch.ones(1, 1, 64, 32)], dim=3)
    swapped = shown(still, Blend(other, features, halves))
    torch.testing.assert_close(swapped[..., :32], other[..., :32], atol=1e-5, rtol=0)
    torch.testing.assert_close(swapped[..., 32:], inputs[0][..., 32:], atol=1e-5, rtol=0)
    torch.nn.init.constant_(network.source_share.bias, -1e4)  # type: ignore[arg-type]
    assert torch.equal(shown(still), shown(still, None))
    assert (shown(still) - inputs[0]).abs().mean() > 0.1


def test_shown_pixels_teach_the_motion(config: ModelConfig, rng: torch.Generator) -> None:
    sizes = config.generator.model_copy(update={"source_pixels": True})
    inputs = inputs_of(1, rng)
    gradients = []
    for network in (Generator(config), Generator(config.model_copy(update={"generator": sizes}))):
        network.eval()
        motion = network.dense_motion_network(*inputs[:4])
        grid = motion.deformation.detach().requires_grad_(True)
        moved = dataclasses.replace(motion, deformation=grid)
        with (
            patch.object(network.dense_motion_network, "forward", lambda *_, moved=moved: moved),
            patch.object(network, "encode", lambda _: torch.zeros(1, 16, 16, 16)),
        ):
            network(*inputs).prediction.square().mean().backward()
        gradients.append(grid.grad)
    assert gradients[0] is not None
    assert gradients[0].abs().max() == 0  # it moves the features alone
    assert gradients[1] is not None
    assert gradients[1].abs().max() > 0


@torch.no_grad()
def test_known_source_features_give_the_same_prediction(network: Generator, rng: torch.Generator) -> None:
    inputs = inputs_of(2, rng)
    cached = network(*inputs, source_features=network.encode(inputs[0]))
    torch.testing.assert_close(cached.prediction, network(*inputs).prediction)


@torch.no_grad()
def test_batch_of_four_is_four_batches_of_one(network: Generator, rng: torch.Generator) -> None:
    inputs = inputs_of(4, rng)
    together = network(*inputs).prediction
    for i in range(4):
        alone = network(*map_tensors(lambda tensor, i=i: tensor[i : i + 1], inputs)).prediction
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-5, rtol=0)


@torch.no_grad()
def test_channels_last_changes_nothing(network: Generator, rng: torch.Generator) -> None:
    inputs = inputs_of(2, rng)
    expected = network(*inputs).prediction
    last = network.to(memory_format=torch.channels_last)

    def to_last(tensor: Tensor) -> Tensor:
        return (
            tensor.to(memory_format=torch.channels_last)
            if tensor.shape[1] == 3 and tensor.ndim == 4
            else tensor
        )

    torch.testing.assert_close(last(*map_tensors(to_last, inputs)).prediction, expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_blend_keeps_the_driving_features_outside_its_mask(network: Generator, rng: torch.Generator) -> None:
    inputs = inputs_of(1, rng)
    image, features = torch.rand(1, 3, 64, 64, generator=rng), torch.randn(1, 16, 16, 16, generator=rng)
    without, within = (Blend(image, features, torch.full((1, 1, 128, 128), share)) for share in (0.0, 1.0))
    nowhere = network(*inputs, blend=without).prediction
    other = network(*inputs_of(1, rng)[:3], *inputs[3:], blend=without)
    everywhere = network(*inputs, blend=within).prediction
    plain = network(*inputs).prediction
    # The generated face has no say where the mask is 0 (only occlusion 2 still depends on it) ...
    assert (nowhere - plain).abs().mean() > 10 * (nowhere - other.prediction).abs().mean()
    # ... and the driving frame none where it is 1; at the border the anti-alias filter sees zeros.
    inner = slice(28, 36)
    torch.testing.assert_close(everywhere[..., inner, inner], plain[..., inner, inner], atol=5e-2, rtol=0)


def test_gade_with_an_empty_mask_does_nothing() -> None:
    block = GadeUpBlock(3, 2).eval()
    torch.nn.init.zeros_(block.conv_f.weight)
    torch.nn.init.constant_(block.conv_f.bias, -1e4)  # type: ignore[arg-type]
    x = torch.randn(1, 3, 4, 4)
    first, second = block(x, torch.randn(1, 1280)), block(x, torch.randn(1, 1280))
    torch.testing.assert_close(first, second)
    torch.nn.init.constant_(block.conv_f.bias, 1e4)  # type: ignore[arg-type]
    assert not torch.equal(block(x, torch.randn(1, 1280)), block(x, torch.randn(1, 1280)))


def test_every_parameter_receives_a_finite_gradient(network: Generator, rng: torch.Generator) -> None:
    network.train()(*inputs_of(2, rng)).prediction.square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
