"""Everything that needs a GPU, unattended, in under ten minutes: figures first, then ``tests/gpu``.

- rates of `infer.py` in float32 and bf16 at batches of 1, 16 and 64; latency of one frame; roofs;
- ms of the rasteriser for 16 heads at 256 px; a FLAME mesh with ``--head``, made by ``safa assets convert``;
- a stage-2 step in bf16: share of the measured bf16 matrix peak, memory, with activation checkpoints, too;
- the lines at which a step waits for the GPU;
- NCCL and SyncBatchNorm in a group of one, and what else is in ``tests/gpu``.

Run: python benchmarks/gpu.py [--head flame.npz]. Without a GPU the same runs on the CPU with tiny sizes, to
show that it works; its numbers then say nothing. A part that fails is named, and the others run.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from infer_cases.models import config_of, frames_of, make_checkpoint, model_of
from infer_cases.roofs import print_roofs
from infer_cases.ways import Engine, wait
from measuring.clocks import in_turns
from train_cases import step

from safa.head import load_head_assets
from safa.head.assets import HeadAssets
from safa.head.raster import rasterize
from safa.inference.device_choice import choose_device

ROOT = Path(__file__).parents[1]
HEADS = 16


class Machine:
    """What the parts measure on, and how large.

    Attributes:
        device: the first GPU, or the CPU.
        model: name of the sizes.
        size: px of the rasteriser's pictures.
        rounds: of each measurement.
    """

    def __init__(self, head: Path | None) -> None:
        self.device = choose_device("auto")
        self.on_gpu = self.device.type == "cuda"
        self.model = "published" if self.on_gpu else "tiny"
        self.size, self.rounds = (256, 20) if self.on_gpu else (64, 2)
        self.head = HeadAssets.load(head) if head else load_head_assets(config_of(self.model).head)
        self.low = torch.bfloat16 if self.on_gpu else torch.float32


def roofs(machine: Machine, work: Path) -> None:
    """Matrix products, convolutions, copies."""
    if machine.on_gpu:
        print_roofs(machine.device, machine.rounds)
    else:
        print("not measured: no GPU")


def animation(machine: Machine, work: Path) -> None:
    """Frames per second by batch, and the latency of one frame."""
    checkpoint = make_checkpoint(work / "model", machine.model)
    size = model_of(checkpoint).config.image_size
    for dtype in dict.fromkeys((torch.float32, machine.low)):
        engine = Engine(model_of(checkpoint), frames_of(size, 1)[0], machine.device, dtype)
        for batch in (1, 16, 64) if machine.on_gpu else (1, 2):
            driving = frames_of(size, batch)
            (spent,) = in_turns({"engine": partial(engine, driving)}, machine.rounds).values()
            memory = torch.cuda.max_memory_allocated() / 2**30 if machine.on_gpu else 0.0
            print(
                f"{dtype!s:<16} batch {batch:>2}: {1000 * spent:8.2f} ms, {batch / spent:8.1f} frames/s, "
                f"{memory:.1f} GiB"
            )


def rasteriser(machine: Machine, work: Path) -> None:
    """16 heads seen by the default camera, behind the screen."""
    head = machine.head
    vertices = head.v_template * torch.tensor([10.0, -10, -10]) + torch.tensor([0, 0, 10.0])
    meshes = vertices.expand(HEADS, -1, -1).contiguous().to(machine.device)
    faces = head.faces.to(machine.device)

    def draw() -> None:
        rasterize(meshes, faces, machine.size)
        wait(machine.device)

    (spent,) = in_turns({"rasteriser": draw}, machine.rounds).values()
    print(f"{HEADS} meshes of {len(faces)} faces at {machine.size} px: {1000 * spent:.2f} ms")


def training(machine: Machine, work: Path) -> None:
    """Steps of stage 2 in bf16, NHWC, without and with activation checkpoints."""
    batch = 16 if machine.on_gpu else 2
    side = torch.device("cuda" if machine.on_gpu else "cpu")
    peak = step.matrix_peak(side, machine.low)
    print(f"matrix peak, {machine.low}: {peak / 1e12:.2f} TFLOP/s")
    ways: dict[str, dict[str, Any]] = {
        "plain": {},
        "activation checkpoints": {"activation_checkpoints": True},
    }
    for name, more in ways.items():
        config = step.settings(
            *(batch, "full", config_of(machine.model)), bf16=machine.on_gpu, channels_last=True, **more
        )
        case = step.Case(config, use_gpu=machine.on_gpu)
        flops = step.flops_per_step(case)
        if machine.on_gpu:
            torch.cuda.reset_peak_memory_stats()
        seconds = case.seconds_per_step(min(5, machine.rounds))
        memory = torch.cuda.max_memory_allocated() / 2**30 if machine.on_gpu else 0.0
        print(
            f"stage 2, batch {batch}, {name}: {1000 * seconds:.1f} ms a step, {batch / seconds:.1f} pairs/s, "
            f"{flops / seconds / peak:.1%} of the peak, {memory:.1f} GiB"
        )
        del case


def waits(machine: Machine, work: Path) -> None:
    """Lines at which a step waits for the GPU. One is meant: the look at whether losses are finite."""
    if not machine.on_gpu:
        print("not measured: no GPU")
        return
    for stage in ("head", "full"):
        case = step.Case(step.settings(2, stage, config_of(machine.model)), use_gpu=True)
        case.step()
        torch.cuda.set_sync_debug_mode("warn")
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            case.step()
        torch.cuda.set_sync_debug_mode("default")
        places = Counter(f"{Path(each.filename).name}:{each.lineno}" for each in warned)
        print(f"stage {stage}: {places.total()} waits; {dict(places.most_common(12))}")


def tests(machine: Machine, work: Path) -> None:
    """``tests/gpu``; they skip without a GPU."""
    words = [sys.executable, "-m", "pytest", "-q", "-rs", "-m", "gpu", str(ROOT / "tests" / "gpu")]
    done = subprocess.run(words, cwd=ROOT, check=False)
    if done.returncode:
        raise RuntimeError(f"pytest ended with {done.returncode}")


PARTS: tuple[Callable[[Machine, Path], None], ...] = (roofs, animation, rasteriser, training, waits, tests)


def main() -> int:
    """Run all parts; the exit code is the number of those that failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--head", type=Path, help="a head file (.npz) in place of the built-in head")
    machine = Machine(parser.parse_args().head)
    name = torch.cuda.get_device_name() if machine.on_gpu else "no GPU: tiny sizes on the CPU, to see it work"
    print(f"{name}; torch {torch.__version__}")
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for part in PARTS:
            began = time.perf_counter()
            print(f"== {part.__name__}", flush=True)
            try:
                part(machine, Path(folder))
            except Exception:
                failed += 1
                traceback.print_exc()
            print(f"({time.perf_counter() - began:.0f} s)", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
