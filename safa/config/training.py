"""Settings of training: one file for both stages; the ``stage`` section says which networks learn and how."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from safa.config.loader import Settings
from safa.config.losses import HeadLossConfig, LossConfig
from safa.config.model import ModelConfig
from safa.config.tracking import TrackingConfig
from safa.files import LocalPath, Location, join

Rate = Annotated[float, Field(gt=0)]  # a learning rate
Beta = Annotated[float, Field(ge=0, lt=1)]  # a decay rate of Adam's moments


class JitterConfig(Settings):
    """Colour jitter: factors in 1 +- amount, the hue in +- amount turns. 0 leaves a property alone."""

    brightness: float = Field(default=0.1, ge=0, lt=1)
    contrast: float = Field(default=0.1, ge=0, lt=1)
    saturation: float = Field(default=0.1, ge=0, lt=1)
    hue: float = Field(default=0.1, ge=0, le=0.5)


class DataConfig(Settings):
    """Where samples come from."""

    clips: Location  # data set written by pipelines/preprocess: its clips/
    split: str = "train"
    min_identities: int = Field(default=2, ge=1)  # fewer people in the split are refused before training
    # Samples in one forward pass: of one worker (batch_size), or of all, who share them (batch_total).
    batch_size: int | None = Field(default=None, ge=1)
    batch_total: int | None = Field(default=None, ge=1)
    num_repeats: int = Field(default=150, ge=1)  # how often each identity comes up in an epoch
    loader_workers: int = Field(default=0, ge=0)  # processes that prepare batches; 0 = the training process
    landmarks: str | None = None  # a column of landmarks (pipelines/annotate); None = those stored first
    stage_to: LocalPath | None = None  # node-local folder that shards are copied to when first needed
    stage_gb: float = Field(default=100.0, gt=0)  # most that may lie there
    cache_mb: int = Field(default=0, ge=0)  # decoded frames kept in memory, per loading process
    jitter: JitterConfig = JitterConfig()

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        if (self.batch_size is None) == (self.batch_total is None):
            raise ValueError("give batch_size (of a worker) or batch_total (of all); the other one is null")
        return self

    def batches_of(self, workers: int) -> tuple[int, ...]:
        """Samples of each worker in one forward pass. What cannot be shared evenly goes to the first ones."""
        if self.batch_total is not None:
            each, left = divmod(self.batch_total, workers)
            return tuple(each + (rank < left) for rank in range(workers))
        assert self.batch_size is not None, "checked above"
        return (self.batch_size,) * workers


class SimilarityConfig(Settings):
    """Random placement of a frame: shift, zoom and turn about its middle. 0 everywhere leaves it alone."""

    shift: float = Field(default=0.0, ge=0, lt=0.5)  # largest, of the frame's side, along x and y
    zoom: float = Field(default=0.0, ge=0, lt=0.5)  # factor in 1 +- zoom
    turn_deg: float = Field(default=0.0, ge=0, le=45)  # largest, to either side


class HeadStage(Settings):
    """Stage 1: the 3DMM estimator alone, on single frames."""

    kind: Literal["head"]
    lr: Rate = 2e-4
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    losses: HeadLossConfig = HeadLossConfig()
    mirror: float = Field(default=0.5, ge=0, le=1)  # share of frames flipped left to right
    similarity: SimilarityConfig = SimilarityConfig()


class LearningRates(Settings):
    """One learning rate per network of stage 2."""

    generator: Rate = 2e-4
    kp_detector: Rate = 2e-4
    tdmm: Rate = 2e-4
    discriminator: Rate = 2e-4


class FullStage(Settings):
    """Stage 2: generator, keypoint detector, 3DMM and discriminator, on frame pairs."""

    kind: Literal["full"]
    init: Location | None = None  # run, model or checkpoint to start from: of stage 1 the 3DMM
    lr: LearningRates = LearningRates()
    betas: tuple[Beta, Beta] = (0.5, 0.999)
    losses: LossConfig = LossConfig()
    time_flip: float = Field(default=0.5, ge=0, le=1)  # share of pairs in reversed order
    encoder_dropout: bool = True  # whether the 3DMM encoder's dropout stays on, as in the published training
    # Per step, of the exponential moving average of the weights that inference then uses; None = no average.
    ema_decay: float | None = Field(default=None, gt=0, lt=1)


class ScheduleConfig(Settings):
    """How long to train and when to lower the learning rate, all in the same unit."""

    unit: Literal["steps", "epochs"]
    length: int = Field(ge=1)
    milestones: tuple[int, ...] = ()  # the learning rate is multiplied by gamma at each
    gamma: float = Field(default=0.1, gt=0, le=1)
    cosine: bool = False  # the learning rate falls to 0 along half a cosine, instead of at milestones
    warmup_steps: int = Field(default=0, ge=0)  # in which the learning rate rises linearly

    @model_validator(mode="after")
    def _milestones_rise(self) -> Self:
        if list(self.milestones) != sorted(set(self.milestones)) or any(m < 1 for m in self.milestones):
            raise ValueError("milestones must be rising positive numbers")
        if self.cosine and self.milestones:
            raise ValueError("cosine and milestones exclude each other")
        return self

    def total_steps(self, samples_per_epoch: int, samples_per_step: int, done: int = 0, seen: int = 0) -> int:
        """Optimiser steps of the whole run; a last part of an epoch counts as a step.

        Args:
            done, seen: steps taken and samples seen so far, maybe on another number of workers.
        """
        if self.unit == "steps":
            return self.length
        return done + math.ceil(max(0, self.length * samples_per_epoch - seen) / samples_per_step)

    def lr_factor(self, step: int, samples_seen: int, samples_per_epoch: int) -> float:
        """What the learning rates are multiplied by in the step that follows ``step`` finished ones."""
        position = step if self.unit == "steps" else samples_seen / samples_per_epoch
        if self.cosine:
            factor = (1 + math.cos(math.pi * min(1.0, position / self.length))) / 2
        else:
            factor = self.gamma ** sum(position >= milestone for milestone in self.milestones)
        return factor * min(1.0, (step + 1) / (self.warmup_steps + 1))


class StepConfig(Settings):
    """How one optimiser step is computed."""

    accumulate: int = Field(default=1, ge=1)  # forward passes per optimiser step
    clip_norm: float | None = Field(default=None, gt=0)  # largest gradient norm of a network; None = no limit
    bf16: bool = False  # autocast to bfloat16 where torch deems it safe
    channels_last: bool = False  # NHWC memory layout of images and convolution weights
    fused_adam: bool = True
    activation_checkpoints: bool = False  # blocks are computed again in the backward pass: less memory
    compile: bool = False  # torch.compile of each network; the first steps take minutes


class ValidateConfig(Settings):
    """Held-out reconstruction during training."""

    every: int = Field(ge=1)  # steps
    split: str = "test"
    clips: int = Field(default=8, ge=1)  # the first so many, in the order of their ids
    frames: int = Field(default=4, ge=1)  # driving frames per clip, evenly spaced after the source frame 0


class CheckpointConfig(Settings):
    """Training states on disk."""

    every: int = Field(ge=1)  # steps; the end of the run always writes one
    keep: int = Field(default=2, ge=1)  # newest states kept
    keep_best: int = Field(default=1, ge=0)  # states with the best held-out score kept besides


class ScaleConfig(Settings):
    """Machines. This section and ``tracking`` may change when a run is resumed."""

    # Ray Train workers; 0 = train in this process, without Ray. auto: as many as data.batch_total and the
    # cores allow, with as many threads as are left, or with use_gpu one a GPU (safa/cores.py).
    num_workers: Annotated[int, Field(ge=0)] | Literal["auto"] = 0
    # Continue with as few as these while machines are missing; None = always num_workers.
    min_workers: int | None = Field(default=None, ge=1)
    use_gpu: bool = False
    # Reserved in Ray; leave some of the machine free for Ray itself.
    cpus_per_worker: float = Field(default=1.0, gt=0)
    threads_per_worker: int = Field(default=1, ge=1)  # torch's own threads
    max_failures: int = Field(default=0, ge=-1)  # restarts after a lost worker; -1 = no limit

    @model_validator(mode="after")
    def _fewest_not_above_all(self) -> Self:
        if self.min_workers is None:
            return self
        if self.num_workers == "auto":
            raise ValueError("min_workers needs num_workers as a number")
        if self.min_workers > self.num_workers:
            raise ValueError("min_workers must not be above num_workers")
        return self


class TrainConfig(Settings):
    """One training run. Its folder is ``runs/name``."""

    runs: Location = Path("runs")
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    seed: int = Field(default=0, ge=0)
    model: ModelConfig = ModelConfig()
    data: DataConfig
    stage: Annotated[HeadStage | FullStage, Field(discriminator="kind")]
    schedule: ScheduleConfig
    step: StepConfig = StepConfig()
    validate_on: ValidateConfig | None = None
    checkpoint: CheckpointConfig
    log_every: int = Field(default=50, ge=1)  # steps
    tracking: TrackingConfig = TrackingConfig()
    scale: ScaleConfig = ScaleConfig()

    @model_validator(mode="after")
    def _sharing_needs_a_total(self) -> Self:
        workers, total = self.scale.num_workers, self.data.batch_total
        if workers == "auto" and total is None:
            raise ValueError("scale.num_workers: auto needs data.batch_total, which the workers share")
        if workers != "auto" and total is not None and total < workers:
            raise ValueError(f"{workers} workers (scale.num_workers) cannot share data.batch_total {total}")
        return self

    @property
    def folder(self) -> Location:
        """The run folder."""
        return join(self.runs, self.name)
