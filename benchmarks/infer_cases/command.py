"""The whole command: its first frame, its rate beside the bare engine's, its memory."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from infer_cases.models import frames_of, model_of, write_inputs
from infer_cases.ways import Engine

FIRST = """
import json, sys, time
import safa
animator = safa.load(sys.argv[1], device=sys.argv[4])
next(iter(animator.animate(sys.argv[2], sys.argv[3], crop=False)))
print(json.dumps({"shown": time.time()}))
"""
WHOLE = """
import json, resource, sys
from safa.cli import main
code = main(sys.argv[1:])
mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"code": code, "mib": mib}))
"""


def first_frame(checkpoint: Path, device: torch.device, rounds: int) -> float:
    """Median seconds of a fresh process up to its first frame, start of Python included."""
    with tempfile.TemporaryDirectory() as folder:
        photo, video = write_inputs(Path(folder), model_of(checkpoint).config.image_size, 16)
        times = []
        for _ in range(rounds):
            began = time.time()
            shown = _child(FIRST, [str(checkpoint), str(photo), str(video), str(device)])["shown"]
            times.append(shown - began)
    return statistics.median(times)


def whole_command(checkpoint: Path, device: torch.device, frames: int, rounds: int) -> dict[str, float]:
    """Frames per second of ``safa animate`` between its first and its last frame, and of the bare engine.

    The command runs with few and with all frames; what is the same in both (start, loading, the source) falls
    out of the difference. Engine and commands take turns.
    """
    few = max(2, frames // 4)
    with tempfile.TemporaryDirectory() as folder:
        model = model_of(checkpoint)
        size = model.config.image_size
        photo, video = write_inputs(Path(folder), size, frames)
        engine = Engine(model, frames_of(size, 1)[0], device, torch.float32)
        batch = engine.runner.batch_size if device.type == "cpu" else 16
        driving = frames_of(size, batch)
        bare: list[float] = []
        spent: dict[int, list[float]] = {few: [], frames: []}
        mib = 0.0
        for _ in range(rounds):
            for count in (few, frames):
                words = ["animate", str(photo), str(video), "-o", str(Path(folder) / "out.mp4"), "--no-crop"]
                words += ["--checkpoint", str(checkpoint), "--device", str(device)]
                words += ["--max-frames", str(count)]
                began = time.perf_counter()
                mib = max(mib, _child(WHOLE, words)["mib"])
                spent[count].append(time.perf_counter() - began)
            engine(driving)
            began = time.perf_counter()
            for _ in range(max(1, few // batch)):
                engine(driving)
            bare.append((time.perf_counter() - began) / max(1, few // batch) / batch)
    slope = (statistics.median(spent[frames]) - statistics.median(spent[few])) / (frames - few)
    return {"command": 1 / slope, "engine": 1 / statistics.median(bare), "MiB": mib}


def _child(code: str, words: list[str]) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result
