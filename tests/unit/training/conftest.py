"""Settings of tiny runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from safa.config import parse_settings
from safa.config.training import TrainConfig
from safa.data.batches import FrameBatch, PairBatch
from safa.head.assets import HeadAssets
from safa.training.context import LocalContext
from safa.training.feed import Feed
from safa.training.stages import make_stage


@pytest.fixture(scope="session")
def head_file(tmp_path_factory: pytest.TempPathFactory, toy_head: HeadAssets) -> Path:
    path = tmp_path_factory.mktemp("head") / "toy.npz"
    toy_head.save(path)
    return path


@pytest.fixture
def make_config(
    tmp_path: Path, tiny_clips: Path, tiny_model: dict[str, Any], head_file: Path
) -> Callable[..., TrainConfig]:
    """``make_config("full", {"step.accumulate": 2}, length=4)``: settings with changes by dotted name."""

    def make(kind: str, changes: dict[str, Any] | None = None, *, length: int = 4) -> TrainConfig:
        data: dict[str, Any] = {
            "runs": str(tmp_path / "runs"),
            "name": kind,
            "model": tiny_model | {"head": tiny_model["head"] | {"assets": str(head_file)}},
            "data": {"clips": str(tiny_clips), "batch_size": 2, "num_repeats": 2, "cache_mb": 1},
            "stage": {"kind": kind},
            "schedule": {"unit": "steps", "length": length},
            "checkpoint": {"every": 2},
            "validate_on": {"every": 2, "clips": 1, "frames": 2},
            "log_every": 1,
        }
        for name, value in (changes or {}).items():
            *parents, leaf = name.split(".")
            node = data
            for parent in parents:
                node = node.setdefault(parent, {})
            node[leaf] = value
        return parse_settings(data, TrainConfig, "test")

    return make


@pytest.fixture
def take_steps() -> Callable[..., list[dict[str, float]]]:
    """``take_steps(config, 3, batch)``: losses of so many steps on one batch, by default the run's first."""

    def take(
        config: TrainConfig, steps: int, batch: FrameBatch | PairBatch | None = None
    ) -> list[dict[str, float]]:
        torch.manual_seed(config.seed)
        context = LocalContext()
        chosen: Any = batch or next(Feed(config, context).batches(0, 1))
        stage = make_stage(config, context)
        stage.train_mode()
        taken = [stage.step([chosen], torch.Generator().manual_seed(0)) for _ in range(steps)]
        return [{name: float(value) for name, value in terms.items()} for terms in taken]

    return take
