"""A model small enough to run in a blink, for every test of the networks."""

from __future__ import annotations

import pytest
import torch

from safa.config.model import (
    DiscriminatorConfig,
    GeneratorConfig,
    HeadConfig,
    HourglassConfig,
    KeypointConfig,
    ModelConfig,
)

GLASS = HourglassConfig(block_expansion=4, num_blocks=3, max_features=16)


@pytest.fixture(scope="session")
def config() -> ModelConfig:
    return ModelConfig(
        image_size=64,
        num_keypoints=3,
        keypoints=KeypointConfig(hourglass=GLASS),
        head=HeadConfig(encoder_width=0.1, uv_size=32),
        generator=GeneratorConfig(
            block_expansion=4, max_features=16, num_bottleneck_blocks=1, dense_motion=GLASS
        ),
        discriminator=DiscriminatorConfig(
            scales=(1.0, 0.5), block_expansion=4, num_blocks=3, max_features=16
        ),
    )


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)
