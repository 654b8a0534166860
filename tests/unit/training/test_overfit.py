"""One batch, learned by heart: what gradients and optimisers can do together, to a stated loss."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from safa.config.training import TrainConfig
from safa.data.sampler import FrameBatch
from safa.head.assets import HeadAssets
from safa.head.model import HeadCode, landmarks_px
from safa.models.tdmm import Tdmm

MakeConfig = Callable[..., TrainConfig]
TakeSteps = Callable[..., list[dict[str, float]]]
RATE = dict.fromkeys(("generator", "kp_detector", "tdmm", "discriminator"), 5e-3)


@pytest.mark.slow
def test_head_stage(make_config: MakeConfig, take_steps: TakeSteps, head_file: Path) -> None:
    """Two frames whose landmarks the head can take on."""
    encoder = {
        "model.head.encoder_width": 0.25,
        "model.head.encoder_blocks": [1] * 7,
        "model.head.encoder_strides": [1] * 7,
    }
    config = make_config("head", {"stage.lr": 1e-3, "model.head.dropout": 0.0} | encoder)
    rng = torch.Generator().manual_seed(1)
    code = HeadCode(
        shape=torch.zeros(2, 100),
        expression=torch.zeros(2, 50),
        rotation=torch.zeros(2, 3),
        jaw=torch.zeros(2, 3),
        scale=torch.tensor([[8.0], [7.0]]),
        translation=0.1 * torch.randn(2, 2, generator=rng),
    )
    landmarks = landmarks_px(Tdmm(config.model, HeadAssets.load(head_file)).geometry(code), 32)
    batch = FrameBatch(("a", "b"), torch.rand(2, 3, 32, 32, generator=rng), landmarks)
    losses = [terms["landmark"] for terms in take_steps(config, 200, batch)]
    assert losses[0] > 4
    # At a constant rate Adam swings by a pixel around what it found; BatchNorm of two samples adds to it.
    assert min(losses) < 1.3, "px of 32"


@pytest.mark.slow
@pytest.mark.soak
def test_full_stage(make_config: MakeConfig, take_steps: TakeSteps) -> None:
    config = make_config("full", {"stage.lr": RATE, "model.head.dropout": 0.0})
    losses = [terms["perceptual"] for terms in take_steps(config, 150)]
    assert losses[0] > 15
    assert losses[-1] < 3
