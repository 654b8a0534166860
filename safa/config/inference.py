"""Settings of inference and evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from safa.config.loader import Settings

Mode = Literal["reconstruction", "animation"]


class TransferConfig(Settings):
    """How the driving motion is put on the source."""

    mode: Literal["absolute", "relative"] = "relative"
    adapt_scale: bool = False  # scale the keypoints' way by the size of the two faces
    best_frame: bool = False  # measure from the driving frame most like the source, not from the first

    @model_validator(mode="after")
    def _only_relative_motion_has_a_reference(self) -> Self:
        if self.mode == "absolute" and (self.adapt_scale or self.best_frame):
            raise ValueError("adapt_scale and best_frame need mode: relative")
        return self


class AnimationConfig(Settings):
    """Which sources are animated by which drivers: pairs of clips of different people."""

    pairs: int = Field(default=6, ge=1)  # at most; fewer if there are not so many
    seed: int = Field(default=0, ge=0)  # of the draw
    transfer: TransferConfig = TransferConfig()


class PictureConfig(Settings):
    """Videos and strips of the report."""

    panel: int = Field(default=192, ge=32)  # px; smaller pictures are enlarged to at least this side
    strip_frames: int = Field(default=4, ge=2)  # rows of a strip, evenly spaced over the clip
    crf: int = Field(default=20, ge=0, le=51)  # H.264 quality: 0 lossless, 23 usual, 51 worst


class EvaluateScale(Settings):
    """Machines. The numbers do not depend on them."""

    actors: int = Field(default=1, ge=1)  # each holds one model
    cpus_per_actor: float = Field(default=1.0, gt=0)  # reserved in Ray; leave some free for Ray itself
    gpus_per_actor: float = Field(default=0.0, ge=0)  # a share of one GPU is fine
    threads_per_actor: int = Field(default=1, ge=1)  # torch's own threads
    batch_size: int = Field(default=8, ge=1)  # driving frames at once


class EvaluateConfig(Settings):
    """One evaluation. ``out`` is the report: ``index.html`` with everything it shows beside it."""

    model: Path  # run folder of the full stage, its model/ or a checkpoint
    clips: Path  # the folder clips/ that pipelines/preprocess wrote
    splits: tuple[Literal["train", "test"], ...] = Field(default=("test",), min_length=1)
    out: Path
    title: str = "SAFA evaluation"
    modes: tuple[Mode, ...] = Field(default=("reconstruction", "animation"), min_length=1)
    frames: int | None = Field(default=None, ge=2)  # of a clip at most, from its start; None = all
    animation: AnimationConfig = AnimationConfig()
    pictures: PictureConfig = PictureConfig()
    history: tuple[Path, ...] = ()  # training runs whose settings and curves the report shows, in order
    max_unexpected: float = Field(default=0.1, ge=0, le=1)  # share of `unexpected` results that fails the run
    scale: EvaluateScale = EvaluateScale()
