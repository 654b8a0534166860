from __future__ import annotations

import pytest
import torch

from safa.config.model import ModelConfig, smallest_discriminator_input
from safa.models.discriminator import MultiScaleDiscriminator


def test_published_names_and_channels() -> None:
    network = MultiScaleDiscriminator(ModelConfig())
    assert list(network.discs) == ["1", "0-5", "0-25"]
    widths = [block.conv.out_channels for block in network.discs["1"].down_blocks]
    assert widths == [64, 128, 256, 512]


def test_real_and_fake_may_be_judged_in_one_batch(config: ModelConfig) -> None:
    network = MultiScaleDiscriminator(config)
    images = [torch.rand(4, 3, 64, 64), torch.rand(4, 3, 32, 32)]
    points = torch.rand(4, 3, 2)
    together = network(images, points)
    for i in range(4):
        alone = network([image[i : i + 1] for image in images], points[i : i + 1])
        for a, b in zip(together, alone, strict=True):
            torch.testing.assert_close(a.score[i : i + 1], b.score)
            torch.testing.assert_close(a.features[-1][i : i + 1], b.features[-1])


def test_smallest_input_leaves_four_pixels(config: ModelConfig) -> None:
    size = smallest_discriminator_input(config.discriminator.num_blocks)
    disc = MultiScaleDiscriminator(config).discs["1"]
    assert disc(torch.rand(1, 3, size, size), torch.zeros(1, 3, 2)).score.shape == (1, 1, 2, 2)
    with pytest.raises(ValueError, match="spatial"):
        disc(torch.rand(1, 3, size - 2, size - 2), torch.zeros(1, 3, 2))


def test_one_image_per_scale_is_needed(config: ModelConfig) -> None:
    with pytest.raises(ValueError, match="1 images for 2"):
        MultiScaleDiscriminator(config)([torch.rand(1, 3, 64, 64)], torch.zeros(1, 3, 2))
