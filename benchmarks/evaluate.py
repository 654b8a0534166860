"""What bulk evaluation costs on top of the model: speed, memory over clip length, overhead per clip.

Makes clips of smooth moving pictures and a model with random weights (or takes ``--model``), then measures in
one process and one thread setting:

- ``loop``: the bare model loop, frames already decoded, in batches, nothing scored or written;
- ``clip``: all stages on the same frames: decoding, scores and tables, as of a clip that is not shown;
- ``shown``: the same with video and strip;
- ``single``: one frame at a time with the source redone for each, as the reference does it;
- memory: peak resident size of a fresh process that evaluates a clip of N and of 8 N frames;
- overhead: wall time of whole jobs through Ray with clips of two frames, less the model's own time for them,
  per 1,000 clips (runs of ``--ray`` and three times as many clips).

Rates are wall time; every ratio is of one run. The three ways take turns; the best of ``--rounds`` counts.
Run: python benchmarks/evaluate.py [--ask speed] [--size 256] [--published] [--model RUN] [--device cuda]
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import yaml

from safa.checkpoint.native import ModelInfo, load_model, save_model
from safa.config import ModelConfig, parse_settings
from safa.config.inference import EvaluateConfig
from safa.config.loader import PRESETS
from safa.config.preprocess import EncodingConfig
from safa.data.clip_store import ClipStore
from safa.data.images import encode_image
from safa.data.shards import ClipRecord, ShardWriter, commit_index
from safa.evaluation.clip_files import write_files
from safa.evaluation.jobs import EvaluationJob
from safa.evaluation.parts import write_part
from safa.evaluation.window_stages import AllStages
from safa.evaluation.windows import windows_of
from safa.head import load_head_assets
from safa.inference.model_runner import ModelRunner
from safa.models.safa import Safa

PIECE = 128  # frames in a row of the data set
WINDOW = 128  # frames that a worker takes at a time, as by default
LONGER = 8  # times the length, for memory


def write_clips(folder: Path, size: int, lengths: list[int]) -> None:
    """One clip per length: a smooth random picture that moves; JPEGs as preprocessing stores them."""
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.uniform(0, 255, (1, 3, 9, 9)))
    smooth = F.interpolate(coarse, (size, size), mode="bilinear")[0].permute(1, 2, 0).numpy()
    picture = smooth.clip(0, 255).astype(np.uint8)
    encoding = EncodingConfig()
    frames = [encode_image(np.roll(picture, t % 16, 1), encoding) for t in range(16)]
    with ShardWriter(folder) as writer:
        for number, length in enumerate(lengths):
            name, person = clip_id(number, length), f"p{number:05d}"
            points = np.random.default_rng(number).uniform(0, size, (1, 68, 2)).astype(np.float32)
            for start in range(0, length, PIECE):
                part = [frames[t % 16] for t in range(start, min(length, start + PIECE))]
                writer.add_piece(
                    name, start, part, points.repeat(len(part), 0), np.ones(len(part), np.float32)
                )
            box = (0, 0, size, size)
            writer.keep(ClipRecord(name, person, "v", "test", 0, length, 25.0, size, size, box, "benchmark"))
    commit_index(folder)


def clip_id(number: int, length: int) -> str:
    """The id of the clip with this number."""
    return f"p{number:05d}#v#000000#{length:06d}"


def make_model(folder: Path, size: int, *, published: bool) -> Path:
    """The demo's model at ``size`` px, or the published one, with random weights."""
    sections = yaml.safe_load((PRESETS / "demo.yaml").read_text(encoding="utf-8"))
    narrow = {} if published else sections["model"]
    config = parse_settings({**narrow, "image_size": size}, ModelConfig, "demo.yaml")
    torch.manual_seed(0)
    model = Safa(config, load_head_assets(config.head))
    save_model(folder / "model", model, ModelInfo("full", config, 0, "benchmark"))
    return folder


def settings(model: Path, clips: Path, out: Path, batch: int) -> EvaluateConfig:
    """An evaluation of reconstructions."""
    plain = {"model": str(model), "clips": str(clips), "out": str(out), "modes": ["reconstruction"]}
    scale = {"actors": [1, 1], "cpus_per_actor": 0.5, "batch_size": batch}
    return parse_settings(plain | {"scale": scale}, EvaluateConfig, "benchmark")


def speed(arguments: argparse.Namespace, model_path: Path, work: Path) -> None:
    """Print frames per second of the three ways."""
    num_frames = arguments.frames
    write_clips(work / "speed", arguments.size, [num_frames])
    store, name = ClipStore(work / "speed"), clip_id(0, num_frames)
    model, _ = load_model(model_path, arguments.device)
    runner = ModelRunner(model, arguments.device, arguments.batch)
    single = ModelRunner(model, arguments.device, 1)
    config = settings(model_path, work / "speed", work / "out", arguments.batch)
    stages = AllStages(runner, store, config)
    decoded = store.frames(name, range(num_frames))
    few = decoded[: max(2, num_frames // 4)]

    def loop() -> int:
        for _ in runner.reconstruct(runner.prepare(decoded[0]), decoded):
            pass
        return len(decoded)

    def clip() -> int:
        return evaluate_clip(stages, name, num_frames, work / "one", shown=False)

    def shown() -> int:
        return evaluate_clip(stages, name, num_frames, work / "one", shown=True)

    def one_by_one() -> int:
        for frame in few:
            for _ in single.reconstruct(single.prepare(decoded[0]), [frame]):
                pass
        return len(few)

    ways = {"loop": loop, "clip": clip, "shown": shown, "single": one_by_one}
    rates = best_rates(ways, arguments.rounds, arguments.device)
    for way, rate in rates.items():
        print(f"{way:>8}: {rate:7.1f} frames/s at {arguments.size} px, batch {arguments.batch}")
    print(f"evaluation over the bare loop:        {rates['clip'] / rates['loop']:.2f}")
    print(f"with video and strip, over the loop:  {rates['shown'] / rates['loop']:.2f}")
    print(f"evaluation over one frame at a time:  {rates['clip'] / rates['single']:.2f}")


def evaluate_clip(stages: AllStages, name: str, n_frames: int, out: Path, *, shown: bool) -> int:
    """Evaluate a clip in this process, and write what comes of it. Returns its number of frames."""
    job = EvaluationJob("reconstruction", name, name)
    done = [stages(window) for window in windows_of(job, 0, n_frames, WINDOW, shown=shown)]
    for each in done:
        write_files(out, each.window, each.files)
    write_part(out, "benchmark", done)
    return n_frames


def best_rates(ways: dict[str, Callable[[], int]], rounds: int, device: str) -> dict[str, float]:
    """Frames per second of each; the ways take turns, so that a busy machine hits all of them."""
    best = dict.fromkeys(ways, 0.0)
    for _ in range(rounds + 1):  # the first round warms up, and seldom wins
        for name, work in ways.items():
            began = time.perf_counter()
            count = work()
            if device != "cpu":
                torch.cuda.synchronize()
            best[name] = max(best[name], count / (time.perf_counter() - began))
    return best


def memory(arguments: argparse.Namespace, model_path: Path, work: Path) -> None:
    """Print peak memory of processes that evaluate clips of two lengths."""
    peaks = []
    lengths = [arguments.frames, LONGER * arguments.frames]
    for length in lengths:
        folder = work / f"memory{length}"
        write_clips(folder, arguments.size, [length])
        command = [sys.executable, __file__, "--one-clip", str(folder), "--model", str(model_path)]
        command += ["--frames", str(length), "--batch", str(arguments.batch), "--device", arguments.device]
        peaks.append(float(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    for length, peak in zip(lengths, peaks, strict=True):
        print(f"memory: {peak:7.1f} MiB at most for a clip of {length} frames")
    print(f"memory of {LONGER} times the length:            {peaks[1] / peaks[0]:.3f}")


def one_clip(arguments: argparse.Namespace) -> None:
    """Evaluate the only clip of a data set and print the peak resident size in MiB."""
    torch.set_num_threads(1)
    model, _ = load_model(arguments.model, arguments.device)
    name = clip_id(0, arguments.frames)
    with tempfile.TemporaryDirectory() as out:
        config = settings(arguments.model, arguments.one_clip, Path(out), arguments.batch)
        runner = ModelRunner(model, arguments.device, arguments.batch)
        store = ClipStore(arguments.one_clip)
        stages = AllStages(runner, store, config)
        job = EvaluationJob("reconstruction", name, name)
        for window in windows_of(job, 0, arguments.frames, WINDOW, shown=True):
            write_part(Path(out), str(window.index), [stages(window)])
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def overhead(arguments: argparse.Namespace, model_path: Path, work: Path) -> None:
    """Print what 1,000 clips cost beside the model: Ray, decoding, videos, tables, report.

    Two runs of different size tell the cost of a clip from that of a start.
    """
    from pipelines.evaluate import evaluate
    from pipelines.launch import ray_session

    model, _ = load_model(model_path, arguments.device)
    torch.set_num_threads(1)  # as in an actor
    runner = ModelRunner(model, arguments.device, arguments.batch)
    counts, spent = (arguments.ray, 3 * arguments.ray), []
    with ray_session():
        for count in (2, *counts):  # the first run is slow: Ray starts its processes
            clips, out = work / f"{count} clips", work / f"{count} out"
            write_clips(clips, arguments.size, [2] * count)
            began = time.perf_counter()
            evaluate(settings(model_path, clips, out, arguments.batch), {})
            spent.append(time.perf_counter() - began)
    frames = ClipStore(clips).frames(clip_id(0, 2), [0, 1])
    began = time.perf_counter()
    for _ in range(20):
        list(runner.reconstruct(runner.prepare(frames[0]), frames))
    model_seconds = (time.perf_counter() - began) / 20
    spent = spent[1:]
    per_clip = (spent[1] - spent[0]) / (counts[1] - counts[0])
    print(
        f"overhead: {1000 * (per_clip - model_seconds):.0f} s of one actor per 1,000 clips of 2 frames, ",
        end="",
    )
    print(f"and {spent[0] - counts[0] * per_clip:.0f} s per start")


def main() -> None:
    """Print the figures, one a line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asks = {"speed": speed, "memory": memory, "overhead": overhead}
    parser.add_argument("--ask", action="append", choices=asks, help="may be given often; default: all")
    parser.add_argument("--size", type=int, default=64, help="px, both sides of a frame; that of --model")
    parser.add_argument("--published", action="store_true", help="the published model, not the demo's")
    parser.add_argument("--frames", type=int, default=96, help="of a clip")
    parser.add_argument("--batch", type=int, default=8, help="frames at once")
    parser.add_argument("--rounds", type=int, default=3, help="the best one counts")
    parser.add_argument("--ray", type=int, default=40, help="clips through Ray, for the overhead")
    parser.add_argument("--model", type=Path, default=None, help="run folder; default: random weights")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--one-clip", type=Path, default=None, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one_clip is not None:
        one_clip(arguments)
        return
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        model_path = arguments.model or make_model(
            work / "model", arguments.size, published=arguments.published
        )
        for ask in arguments.ask or asks:
            asks[ask](arguments, model_path, work)


if __name__ == "__main__":
    main()
