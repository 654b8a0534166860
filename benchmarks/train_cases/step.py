"""One optimiser step of stage 2: its parts, and what precision, layout and compilation make of it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from measuring.clocks import Clock
from measuring.published_operators import use_published_operators
from torch.utils.flop_counter import FlopCounterMode

from safa.config import ModelConfig
from safa.config.training import (
    CheckpointConfig,
    DataConfig,
    FullStage,
    HeadStage,
    ScheduleConfig,
    StepConfig,
    TrainConfig,
)
from safa.data.sampler import FrameBatch, PairBatch
from safa.models.backbones.vgg19 import SMALLEST_INPUT, Vgg19Features
from safa.training.context import LocalContext
from safa.training.stages import FullTraining, HeadTraining, make_stage

MATRIX = 8192  # side of the matrices that the peak is measured with


def settings(batch: int, stage: str = "full", model: ModelConfig | None = None, **step: Any) -> TrainConfig:
    """A stage, ``head`` or ``full``, by default at the published sizes."""
    return TrainConfig(
        name="benchmark",
        model=model or ModelConfig(),
        data=DataConfig(clips=Path("-"), batch_size=batch),
        stage=FullStage(kind="full") if stage == "full" else HeadStage(kind="head"),
        schedule=ScheduleConfig(unit="steps", length=1),
        step=StepConfig(**step),
        checkpoint=CheckpointConfig(every=1),
    )


def _fits_vgg(config: TrainConfig) -> bool:
    assert isinstance(config.stage, FullStage)
    return config.model.image_size * min(config.stage.losses.perceptual.scales) >= SMALLEST_INPUT


class Case:
    """A stage ready to take steps on one random batch, with a VGG19 of random weights as in the paper.

    Args:
        published: whether the networks have the published operators.
    """

    def __init__(self, config: TrainConfig, *, use_gpu: bool, published: bool = False) -> None:
        torch.manual_seed(0)
        self.context = LocalContext(use_gpu=use_gpu)
        self.stage: HeadTraining | FullTraining = make_stage(config, self.context)
        if isinstance(self.stage, FullTraining) and _fits_vgg(config):
            vgg = Vgg19Features().eval().requires_grad_(False).to(self.context.device)
            self.stage._criteria.network = vgg
        if published:
            for network in self.stage.networks.values():
                use_published_operators(network)
        self.stage.train_mode()
        size, count = config.model.image_size, config.data.batches_of(1)[0]
        images = torch.rand(2, count, 3, size, size)
        landmarks = torch.rand(2, count, 68, 2) * size
        ids = tuple("benchmark" for _ in range(count))
        self.batch: FrameBatch | PairBatch = PairBatch(ids, images[0], images[1], landmarks[0], landmarks[1])
        if isinstance(self.stage, HeadTraining):
            self.batch = FrameBatch(ids, images[0], landmarks[0])
        self.batch = self.batch.to(self.context.device, self.stage.memory_format)

    def step(self) -> None:
        """One step, finished on the device."""
        rng = torch.Generator().manual_seed(0)
        if isinstance(self.stage, FullTraining):
            assert isinstance(self.batch, PairBatch)
            self.stage.step([self.batch], rng)
        else:
            assert isinstance(self.batch, FrameBatch)
            self.stage.step([self.batch], rng)
        self.wait()

    def wait(self) -> None:
        """Until the device has nothing left to do."""
        if self.context.device.type == "cuda":
            torch.cuda.synchronize()

    def seconds_per_step(self, steps: int) -> float:
        """Median of ``steps`` after two that warm up."""
        times = []
        for _ in range(steps + 2):
            began = time.perf_counter()
            self.step()
            times.append(time.perf_counter() - began)
        return sorted(times[2:])[steps // 2]


def seconds_by_part(case: Case, steps: int) -> dict[str, float]:
    """Mean seconds of each part of a step, and ``rest``: losses, pyramids, batches."""
    case.step()
    case.step()
    clock = Clock(case.wait)
    stage = case.stage
    assert isinstance(stage, FullTraining)
    model = stage.model
    clock.wrap(model.kp_detector, "forward", "keypoints, forward")
    clock.wrap(model.tdmm, "forward", "3DMM encoder, forward")
    clock.wrap(model.tdmm, "_rasterizer", "rasteriser")
    clock.wrap(model.tdmm, "geometry", "head geometry, texture, render")
    clock.wrap(model.tdmm, "texture", "head geometry, texture, render")
    clock.wrap(model.tdmm, "render", "head geometry, texture, render")
    clock.wrap(model.generator.dense_motion_network, "forward", "dense motion, forward")
    clock.wrap(model.generator.context_atten_layer, "forward", "attention, forward")
    clock.wrap(model.generator, "forward", "rest of the generator, forward")
    clock.wrap(stage.networks["discriminator"], "forward", "discriminator, forward")
    assert stage._criteria.network is not None
    clock.wrap(stage._criteria.network, "forward", "VGG19, forward")
    for adam in stage.optimisers.values():
        clock.wrap(adam, "step", "Adam")
    backward = torch.Tensor.backward
    try:
        clock.wrap(torch.Tensor, "backward", "backward passes")
        for _ in range(steps):
            with clock.part("rest"):
                case.step()
    finally:
        torch.Tensor.backward = backward  # type: ignore[method-assign]
    return {name: spent / steps for name, spent in clock.seconds.items()}


def flops_per_step(case: Case) -> float:
    """Floating point operations of the matrix products and convolutions of a step, forward and backward."""
    with FlopCounterMode(display=False) as counter:
        case.step()
    return float(counter.get_total_flops())


def matrix_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of a large matrix product here: what this machine can reach at all."""
    side = MATRIX if device.type == "cuda" else MATRIX // 8
    a = torch.randn(side, side, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(10):
        began = time.perf_counter()
        for _ in range(5):
            a @ a
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, (time.perf_counter() - began) / 5)
    return 2 * side**3 / best
