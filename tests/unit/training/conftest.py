"""Settings of tiny runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from safa.config import parse_settings
from safa.config.training import TrainConfig
from safa.head.assets import HeadAssets


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
