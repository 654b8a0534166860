"""What a training step costs, part by part, and what Ray, workers and the loader add to it.

Questions (``--ask``, all of them by default):

- ``parts``: one step of stage 2 at the published sizes, batch 2, float32, split into its parts; the
  rasteriser should take less than 3 %;
- ``precision``: float32, bfloat16, NHWC layout and, with ``--compile``, compiled networks, as ratios of one
  run; on a GPU also memory, and the share of the measured bf16 matrix peak (aim: 40 % on an H200);
- ``reference``: steps of both stages with the reference's operations (published operators, Adam parameter by
  parameter, NCHW, float32) beside ours, which take turns, in float32 and, where the machine is fast at it,
  in bf16; and ours with activation checkpoints;
- ``loader``: step time with real data over that with one cached batch, at the demo's size (aim: under 1.05);
- ``workers``: Ray's overhead per step over the bare loop (aim: under 2 %), and what two workers reach of
  twice one worker, at the demo's size on the CPU.

Run: python benchmarks/train.py [--ask parts] [--batch 2] [--steps 3] [--threads 2] [--compile]
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from infer_cases.models import CONFIGS, config_of
from infer_cases.ways import has_bfloat16
from measuring.clocks import CLOCKS, in_turns
from train_cases import runs, step


def parts(arguments: argparse.Namespace) -> None:
    """Where the time of a step goes."""
    case = step.Case(step.settings(arguments.batch), use_gpu=torch.cuda.is_available())
    seconds_of = step.seconds_by_part(case, arguments.steps)
    whole = sum(seconds_of.values())
    print(f"stage 2, 256 px, batch {arguments.batch}, float32: {whole:.2f} s/step")
    for name, seconds in sorted(seconds_of.items(), key=lambda item: -item[1]):
        print(f"  {name:<32} {seconds * 1000:9.1f} ms {seconds / whole:7.1%}")


def precision(arguments: argparse.Namespace) -> None:
    """The same step in other settings."""
    on_gpu = torch.cuda.is_available()
    variants: dict[str, dict[str, Any]] = {
        "float32": {},
        "float32, NHWC": {"channels_last": True},
        "bf16": {"bf16": True},
        "bf16, NHWC": {"bf16": True, "channels_last": True},
    }
    if arguments.compile:
        variants["float32, compiled"] = {"compile": True}
        variants["bf16, NHWC, compiled"] = {"bf16": True, "channels_last": True, "compile": True}
    base, flops = 0.0, 0.0
    peak = step.matrix_peak(torch.device("cuda" if on_gpu else "cpu"), torch.bfloat16)
    print(f"bf16 matrix peak measured: {peak / 1e12:.2f} TFLOP/s")
    for name, settings in variants.items():
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        case = step.Case(step.settings(arguments.batch, **settings), use_gpu=on_gpu)
        flops = flops or step.flops_per_step(case)
        seconds = case.seconds_per_step(arguments.steps)
        base = base or seconds
        memory = f", {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB" if on_gpu else ""
        print(
            f"{name:>22}: {1 / seconds:7.3f} steps/s, {arguments.batch / seconds:7.2f} pairs/s, "
            f"{base / seconds:5.2f} x float32, {flops / seconds / peak:6.1%} of the peak{memory}"
        )
        del case


def reference(arguments: argparse.Namespace) -> None:
    """Steps beside those of the reference's operations; the median of each, and the ratio."""
    use_gpu = torch.cuda.is_available()
    variants: dict[str, dict[str, Any]] = {
        "reference's operations, float32": {"fused_adam": False},
        "ours, float32": {},
        "ours, float32, NHWC": {"channels_last": True},
        "ours, float32, checkpoints": {"activation_checkpoints": True},
    }
    if has_bfloat16(torch.device("cuda" if use_gpu else "cpu")):
        variants["reference's operations, bf16"] = {"fused_adam": False, "bf16": True}
        variants["ours, bf16"] = {"bf16": True}
        variants["ours, bf16, NHWC"] = {"bf16": True, "channels_last": True}
    for stage, batch in (("head", arguments.head_batch), ("full", arguments.batch)):
        steps: dict[str, Callable[[], object]] = {}
        for name, settings in variants.items():
            config = step.settings(batch, stage, config_of(arguments.model), **settings)
            published = name.startswith("reference")
            steps[name] = step.Case(config, use_gpu=use_gpu, published=published).step
        seconds = in_turns(steps, arguments.steps, arguments.clock)
        base = next(iter(seconds.values()))
        for name, spent in seconds.items():
            print(f"{stage}, batch {batch}, {name:<32} {1000 * spent:9.1f} ms a step, {base / spent:5.2f} x")


def loader(arguments: argparse.Namespace) -> None:
    """Whether data keeps the step waiting."""
    with tempfile.TemporaryDirectory() as folder:
        settings = runs.make_settings(Path(folder))
        for workers in (0, 1):
            real, cached = runs.data_and_cached(settings, 10 * arguments.steps, loader_workers=workers)
            print(
                f"loader_workers {workers}: {real * 1000:.1f} ms/step with real data, "
                f"{cached * 1000:.1f} with one batch kept: {real / cached:.3f} x"
            )


def workers(arguments: argparse.Namespace) -> None:
    """What Ray costs, and what two workers bring. One thread each; bare loop and Ray in turns."""
    steps = 20 * arguments.steps
    with tempfile.TemporaryDirectory() as folder:
        settings = runs.make_settings(Path(folder))
        bare, ray = [], []
        for turn in range(2):
            bare.append(runs.steps_per_second(settings, f"bare-{turn}", steps, num_workers=0))
            one = {"num_workers": 1, "cpus_per_worker": 0.9}
            ray.append(runs.steps_per_second(settings, f"ray-{turn}", steps, **one))
        print(f"bare loop {max(bare):.3f} steps/s, one Ray worker {max(ray):.3f}: "
              f"overhead {max(bare) / max(ray) - 1:.1%} a step")  # fmt: skip
        two = runs.steps_per_second(settings, "two", steps, num_workers=2, cpus_per_worker=0.9)
        print(f"two workers {two:.3f} steps/s of the double batch: {two / max(ray):.1%} of twice one worker")


QUESTIONS = {
    "parts": parts,
    "precision": precision,
    "reference": reference,
    "loader": loader,
    "workers": workers,
}


def main() -> None:
    """Answer the questions asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ask", choices=QUESTIONS, action="append", help="may be given often; default: all")
    parser.add_argument("--batch", type=int, default=2, help="pairs per step of parts and precision")
    parser.add_argument("--head-batch", type=int, default=8, help="frames per step of stage 1 in reference")
    parser.add_argument("--model", choices=CONFIGS, default="published", help="sizes, in reference")
    parser.add_argument(
        "--steps", type=int, default=3, help="measured of each; of runs, 10 or 20 times as many"
    )
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count() or 1, help="torch's, of parts and precision"
    )
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="of reference; cpu with --threads 1")
    parser.add_argument("--compile", action="store_true", help="measure compiled networks too (minutes)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for name in arguments.ask or QUESTIONS:
        print(f"== {name}")
        QUESTIONS[name](arguments)


if __name__ == "__main__":
    main()
