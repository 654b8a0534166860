"""How much of the training time goes into waiting for checkpoints. The aim is at most 1 %.

- ``demo``: stage 2 of the demo takes real steps, with a state after every ``--every`` of them;
- ``large``: a state of ``--mib`` MiB, as stage 2 has at the published sizes, is saved four times, ``--pause``
  seconds apart; in between a thread computes, as training would. It prints the seconds that each save held
  training up, and how far apart states have to be for that to be 1 %.

Run: python benchmarks/checkpoints.py [--steps 100] [--every 50] [--mib 860] [--pause 10]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Adam
from train_cases import runs

from safa.checkpoint.native import ModelInfo, Progress, TrainState
from safa.config import ModelConfig, parse_settings
from safa.config.training import TrainConfig
from safa.training.checkpoint_writer import CheckpointWriter
from safa.training.context import LocalContext
from safa.training.dataloader import TrainingDataLoader
from safa.training.stages import make_stage

SAVES = 4  # of the large state


def demo(folder: Path, steps: int, every: int) -> None:
    """Real steps of the demo's stage 2."""
    config = parse_settings(runs.make_settings(folder), TrainConfig, "benchmark")
    torch.manual_seed(0)
    context = LocalContext(use_gpu=torch.cuda.is_available())
    stage: Any = make_stage(config, context)
    stage.train_mode()
    writer = CheckpointWriter(folder / "states", 2, "l1")
    info = ModelInfo("full", config.model, 0, "benchmark")
    held: list[float] = []
    began = time.perf_counter()
    for number, batch in enumerate(TrainingDataLoader(config, context).batches(0, steps), start=1):
        stage.step([batch.to(context.device, stage.memory_format)], torch.Generator().manual_seed(number))
        if number % every == 0:
            before = writer.waited
            writer.save(stage.state, Progress(number), info, {})
            held.append(writer.waited - before)
    spent = time.perf_counter() - began
    writer.wait()
    print(f"demo, stage 2: {steps} steps in {spent:.1f} s, a state every {every} steps: {_listed(held)};")
    print(f"  {sum(held) / spent:.2%} of the time")


def large(folder: Path, mib: int, pause: float) -> None:
    """A large state of random numbers: weights and the two moments of each."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    side = 1024  # a square of float32 is 4 MiB
    layers = [nn.Linear(side, side, bias=False) for _ in range(max(1, mib // 12))]
    network = nn.Sequential(*layers).to(device)
    adam = Adam(network.parameters(), lr=1e-6)
    for parameter in network.parameters():
        parameter.grad = torch.randn_like(parameter)
    adam.step()
    writer = CheckpointWriter(folder / "large", 2, "l1")
    state, info = TrainState({"one": network}, {"one": adam}, None), ModelInfo("full", ModelConfig(), 0, "-")
    held, a = [], torch.randn(512, 512, device=device)
    began = time.perf_counter()
    for number in range(SAVES):
        before = writer.waited
        writer.save(state, Progress(number), info, {})
        held.append(writer.waited - before)
        until = time.perf_counter() + pause
        while time.perf_counter() < until:
            a = (a @ a).softmax(1)
    spent = time.perf_counter() - began
    before = writer.waited
    writer.wait()
    size = sum(file.stat().st_size for file in (folder / "large" / f"step-{SAVES - 1:08d}").iterdir()) / 2**20
    print(f"{size:.0f} MiB every {pause:g} s: {_listed(held)}; {sum(held) / spent:.2%} of the time;")
    later = max(held[1:])
    print(f"  1 % at states {100 * later:.0f} s apart; the last one took {writer.waited - before:.1f} s more")


def _listed(seconds: list[float]) -> str:
    return "held up " + ", ".join(f"{each:.3f}" for each in seconds) + " s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--every", type=int, default=50)
    parser.add_argument("--mib", type=int, default=860)
    parser.add_argument("--pause", type=float, default=10.0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        large(Path(scratch), arguments.mib, arguments.pause)
        demo(Path(scratch), arguments.steps, arguments.every)


if __name__ == "__main__":
    main()
