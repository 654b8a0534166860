"""Whole runs of stage 2 at the demo's size: with real data, with Ray, with two workers."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from loader import write_clips

from pipelines.train import train
from safa.config import load_settings, parse_settings
from safa.config.demo import DemoConfig
from safa.config.training import TrainConfig
from safa.data.sampler import FrameBatch, PairBatch
from safa.files import join
from safa.training.context import LocalContext
from safa.training.dataloader import TrainingDataLoader
from safa.training.metrics_logger import read_metrics
from safa.training.stages import make_stage

DEMO = Path(__file__).parents[2] / "configs" / "demo.yaml"
LOG_EVERY = 5
WARM_UP = 2  # rows left out


def make_settings(folder: Path) -> dict[str, Any]:
    """Stage 2 of the demo on clips that are written here, as plain data."""
    demo = load_settings(DEMO, DemoConfig)
    size = demo.model.image_size
    write_clips(folder / "clips", size)
    whole: dict[str, Any] = demo.train.model_dump(mode="json")
    whole["stage"]["init"] = None
    whole["data"] |= {"clips": str(folder / "clips")}
    changes = {"runs": str(folder), "validate_on": None, "log_every": LOG_EVERY}
    return whole | changes | {"checkpoint": {"every": 10**6}}


def steps_per_second(settings: dict[str, Any], name: str, steps: int, **scale: Any) -> float:
    """Median over the rows of a run of ``steps`` steps."""
    schedule = {"unit": "steps", "length": steps}
    config = parse_settings(
        settings | {"name": name, "schedule": schedule, "scale": scale}, TrainConfig, "benchmark"
    )
    train(config)
    rows = [row for row in read_metrics(join(config.folder, "metrics.jsonl")) if row["kind"] == "train"]
    return statistics.median(float(row["steps_per_second"]) for row in rows[WARM_UP:])


class _OneBatch(TrainingDataLoader):
    """A loader that gives the first batch over and over."""

    def batches(self, first_sample: int, steps: int) -> Iterator[FrameBatch | PairBatch]:
        batch = next(super().batches(first_sample, 1))
        return iter([batch] * (steps * self._config.step.accumulate))


def data_and_cached(settings: dict[str, Any], steps: int, *, loader_workers: int) -> tuple[float, float]:
    """Seconds per step with real data and with one batch kept, measured in turns of ``steps`` steps."""
    data = settings["data"] | {"loader_workers": loader_workers}
    config = parse_settings(settings | {"data": data, "scale": {}}, TrainConfig, "benchmark")
    torch.manual_seed(0)
    context = LocalContext(use_gpu=torch.cuda.is_available())
    stage: Any = make_stage(config, context)
    stage.train_mode()
    spent: dict[bool, list[float]] = {False: [], True: []}
    for turn in range(6):
        cached = turn % 2 == 1
        data_loader = (_OneBatch if cached else TrainingDataLoader)(config, context)
        batches = data_loader.batches(0, steps + WARM_UP)
        began = 0.0
        for number, batch in enumerate(batches):
            if number == WARM_UP:
                began = time.perf_counter()
            moved = batch.to(context.device, stage.memory_format)
            stage.step([moved], torch.Generator().manual_seed(number))
        if context.device.type == "cuda":
            torch.cuda.synchronize()
        spent[cached].append((time.perf_counter() - began) / steps)
    return min(spent[False]), min(spent[True])
