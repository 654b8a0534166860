"""One optimiser step of stage 2: its parts, and what precision, layout and compilation make of it."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from safa.config import ModelConfig
from safa.config.training import (
    CheckpointConfig,
    DataConfig,
    FullStage,
    ScheduleConfig,
    StepConfig,
    TrainConfig,
)
from safa.data.sampler import PairBatch
from safa.models.backbones.vgg19 import Vgg19Features
from safa.training.context import LocalContext
from safa.training.stages import FullTraining, make_stage

MATRIX = 8192  # side of the matrices that the peak is measured with


def settings(batch: int, **step: Any) -> TrainConfig:
    """Stage 2 at the published sizes."""
    return TrainConfig(
        name="benchmark",
        model=ModelConfig(),
        data=DataConfig(clips=Path("-"), batch_size=batch),
        stage=FullStage(kind="full"),
        schedule=ScheduleConfig(unit="steps", length=1),
        step=StepConfig(**step),
        checkpoint=CheckpointConfig(every=1),
    )


class Case:
    """A stage ready to take steps on one random batch, with a VGG19 of random weights as in the paper."""

    def __init__(self, config: TrainConfig, *, use_gpu: bool) -> None:
        torch.manual_seed(0)
        self.context = LocalContext(use_gpu=use_gpu)
        stage = make_stage(config, self.context)
        assert isinstance(stage, FullTraining)
        self.stage = stage
        stage._criteria.vgg = Vgg19Features().eval().requires_grad_(False).to(self.context.device)
        stage.train_mode()
        size, count = config.model.image_size, config.data.batch_size
        images = torch.rand(2, count, 3, size, size)
        landmarks = torch.rand(2, count, 68, 2) * size
        ids = tuple("benchmark" for _ in range(count))
        batch = PairBatch(ids, images[0], images[1], landmarks[0], landmarks[1])
        self.batch = batch.to(self.context.device, stage.memory_format)

    def step(self) -> None:
        """One step, finished on the device."""
        self.stage.step([self.batch], torch.Generator().manual_seed(0))
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


class Clock:
    """Adds up the seconds of named parts; a part inside another counts for itself only."""

    def __init__(self, wait: Callable[[], None]) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._wait = wait
        self._inner = [0.0]

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time the block."""
        self._wait()
        self._inner.append(0.0)
        began = time.perf_counter()
        yield
        self._wait()
        spent = time.perf_counter() - began
        self.seconds[name] += spent - self._inner.pop()
        self._inner[-1] += spent

    def wrap(self, owner: Any, attribute: str, name: str) -> None:
        """Time every call of a method of one object (or of all objects of a class)."""
        call = getattr(owner, attribute)

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return call(*args, **kwargs)

        # Past nn.Module's own rules for attributes.
        if isinstance(owner, nn.Module):
            object.__setattr__(owner, attribute, timed)
        else:
            setattr(owner, attribute, timed)


def seconds_by_part(case: Case, steps: int) -> dict[str, float]:
    """Mean seconds of each part of a step, and ``rest``: losses, pyramids, batches."""
    case.step()
    case.step()
    clock = Clock(case.wait)
    model, stage = case.stage.model, case.stage
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
    assert stage._criteria.vgg is not None
    clock.wrap(stage._criteria.vgg, "forward", "VGG19, forward")
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
