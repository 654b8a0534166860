"""A model that runs in a blink, with weights that make it do something."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from safa.config import ModelConfig, parse_settings
from safa.head.assets import HeadAssets
from safa.models.safa import Safa


@pytest.fixture
def model(tiny_model: dict[str, Any], toy_head: HeadAssets) -> Safa:
    """Random weights. Its BatchNorms have seen noise, or every picture would come out the same grey."""
    torch.manual_seed(0)
    model = Safa(parse_settings({**tiny_model, "num_keypoints": 4}, ModelConfig, "test"), toy_head)
    nn.init.normal_(model.tdmm.encoder.fc.weight, std=0.005)
    nn.init.normal_(model.kp_detector.jacobian.weight, std=0.05)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the statistics of all passes
    model.train()
    with torch.no_grad():
        for _ in range(2):
            images = torch.rand(4, 3, 32, 32)
            model.reenact(model.prepare_source(images), model.analyse(images.flip(0)))
    return model.eval()
