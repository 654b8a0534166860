"""Two workers that stop and resume end where two without a break do. Processes with gloo, no Ray."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from safa.config.training import TrainConfig
from safa.training.context import GroupContext
from safa.training.loop import fit
from safa.training.metrics_logger import read_metrics
from safa.weights import read_tensors

MakeConfig = Callable[..., TrainConfig]


def _worker(rank: int, folder: Path, runs: tuple[TrainConfig, ...]) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    for config in runs:
        fit(config, GroupContext(torch.device("cpu")))
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.soak
def test_two_workers_stopped_and_resumed(make_config: MakeConfig, tmp_path: Path) -> None:
    """2N steps against N, a new start of both workers' training, and N more."""
    straight = make_config("full", {"name": "straight", "stage.ema_decay": 0.9}, length=4)
    half, rest = (
        make_config("full", {"name": "resumed", "stage.ema_decay": 0.9}, length=length) for length in (2, 4)
    )
    mp.spawn(_worker, args=(tmp_path, (straight, half, rest)), nprocs=2)  # type: ignore[no-untyped-call]
    losses, weights = [], []
    for config in (straight, rest):
        rows = read_metrics(config.folder / "metrics.jsonl")
        losses.append([row["losses"] for row in rows if row["kind"] == "train"])
        weights.append(read_tensors(config.folder / "model" / "weights.safetensors"))
    assert len(losses[0]) == 4
    for through, resumed in zip(*losses, strict=True):
        assert resumed == pytest.approx(through, rel=1e-6)
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-6, atol=1e-7, msg=name)
