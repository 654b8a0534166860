"""What the tests need that run on a CUDA device."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

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
from safa.config.training import (
    CheckpointConfig,
    DataConfig,
    FullStage,
    HeadStage,
    ScheduleConfig,
    TrainConfig,
)
from safa.data.sampler import FrameBatch, PairBatch
from safa.training.context import LocalContext
from safa.training.stages import make_stage


@pytest.fixture(scope="session")
def cuda() -> torch.device:
    """The first GPU."""
    return torch.device("cuda", 0)


@pytest.fixture
def make_stage_on() -> Callable[[str, bool], dict[str, float]]:
    """``make_stage_on("full", True)``: losses of the second step of a small model, on a GPU or not."""

    def take(kind: str, use_gpu: bool) -> dict[str, float]:
        stage: Any = HeadStage(kind="head") if kind == "head" else FullStage(kind="full")
        glass = HourglassConfig(block_expansion=8, num_blocks=3, max_features=32, scale_factor=0.5)
        model = ModelConfig(
            image_size=64,
            keypoints=KeypointConfig(hourglass=glass),
            head=HeadConfig(encoder_width=0.25, uv_size=64, dropout=0),
            generator=GeneratorConfig(block_expansion=8, max_features=32, dense_motion=glass),
            discriminator=DiscriminatorConfig(scales=(1.0,), block_expansion=8, num_blocks=3),
        )
        config = TrainConfig(
            name="gpu",
            model=model,
            data=DataConfig(clips=Path("-"), batch_size=2),
            stage=stage,
            schedule=ScheduleConfig(unit="steps", length=2),
            checkpoint=CheckpointConfig(every=1),
        )
        torch.manual_seed(0)
        context = LocalContext(use_gpu=use_gpu)
        training: Any = make_stage(config, context)
        training.train_mode()
        rng = torch.Generator().manual_seed(1)
        images = torch.rand(2, 2, 3, 64, 64, generator=rng)
        points = torch.rand(2, 2, 68, 2, generator=rng) * 64
        pairs, heads = PairBatch(("a", "b"), *images, *points), FrameBatch(("a", "b"), images[0], points[0])
        batch: Any = heads if kind == "head" else pairs
        batch = batch.to(context.device, torch.contiguous_format)
        for seed in range(2):
            terms = training.step([batch], torch.Generator().manual_seed(seed))
        return {name: float(value) for name, value in terms.items()}

    return take
