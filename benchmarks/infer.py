"""How fast a model animates: the reference's way, ours, and the exported graphs, in one run.

Questions (``--ask``, all of them by default):

- ``frame``: milliseconds a frame of each way, and how many times as fast as the first: "source redone", which
  has the published operators and does the source again for each batch, as the reference does. Ways take
  turns; medians of ``--rounds``. How far each way's pictures are from the first one's;
- ``parts``: where a frame of the engine goes;
- ``roofs``: what the machine can do: matrix products, convolutions, copies;
- ``first``: seconds from the start of a process to its first frame;
- ``command``: frames per second of `safa animate` over those of the bare engine, and memory.

Weights are synthetic. Run: python benchmarks/infer.py [--ask frame] [--model published] [--batches 1 4]
"""

from __future__ import annotations

import argparse
import platform
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from infer_cases import command, models, parts, roofs
from infer_cases.ways import Engine, Redone, Way, has_bfloat16, ways_of
from measuring.clocks import CLOCKS, in_turns

from safa.inference.device_choice import choose_device
from safa.visualize.images import RgbImage


def frame(arguments: argparse.Namespace) -> None:
    """Every way, at every batch size."""
    driving = models.frames_of(_size(arguments), max(arguments.batches) + 1)
    source, driving = driving[0], driving[1:]
    model = models.model_of(arguments.checkpoint)
    first = Redone(model, source, arguments.device, torch.float32)
    flops = parts.operations(lambda: first(driving[:1]))
    print(f"source redone: {flops / 1e9:.1f} GFLOP a frame in matrix products and convolutions")
    with tempfile.TemporaryDirectory() as folder:
        ways = ways_of(
            *(lambda: models.model_of(arguments.checkpoint), source, arguments.device),
            *(arguments.threads, Path(folder) / "graphs"),
        )
        expected = next(iter(ways.values()))(driving[:1])
        for name, way in ways.items():
            error = float((way(driving[:1]).to(expected.device) - expected).abs().max())
            print(f"{name:<28} differs by {error:.1e}, {255 * error:.2f} levels")
        for batch in arguments.batches:
            _frame_of_batch(ways, driving[:batch], arguments.rounds, arguments.clock)


def _frame_of_batch(ways: dict[str, Way], driving: list[RgbImage], rounds: int, clock: str) -> None:
    calls: dict[str, Callable[[], object]] = {name: partial(way, driving) for name, way in ways.items()}
    seconds = in_turns(calls, rounds, clock)
    base = next(iter(seconds.values()))
    for name, spent in seconds.items():
        print(
            f"batch {len(driving):>2}, {name:<28} {1000 * spent / len(driving):9.1f} ms a frame, "
            f"{len(driving) / spent:8.2f} frames/s, {base / spent:6.2f} x"
        )


def parts_of_frame(arguments: argparse.Namespace) -> None:
    """Where the time of the engine goes."""
    driving = models.frames_of(_size(arguments), arguments.batches[0] + 1)
    for name, dtype in (("float32", torch.float32), ("bf16", torch.bfloat16)):
        if dtype == torch.bfloat16 and not has_bfloat16(arguments.device):
            continue
        engine = Engine(models.model_of(arguments.checkpoint), driving[0], arguments.device, dtype)
        spent = parts.seconds_by_part(engine, driving[1:], arguments.rounds)
        whole = sum(spent.values())
        print(f"{name}, batch {len(driving) - 1}: {1000 * whole:.1f} ms")
        for part, seconds in sorted(spent.items(), key=lambda item: -item[1]):
            print(f"  {part:<32} {1000 * seconds:9.2f} ms {seconds / whole:7.1%}")


def roofs_of_machine(arguments: argparse.Namespace) -> None:
    """What the machine can do."""
    roofs.print_roofs(arguments.device, max(5, arguments.rounds))


def first(arguments: argparse.Namespace) -> None:
    """A person's wait."""
    seconds = command.first_frame(arguments.checkpoint, arguments.device, min(3, arguments.rounds))
    print(f"first frame of a fresh process: {seconds:.2f} s")


def whole(arguments: argparse.Namespace) -> None:
    """The command beside the engine."""
    rates = command.whole_command(
        arguments.checkpoint, arguments.device, arguments.frames, min(5, arguments.rounds)
    )
    print(f"safa animate {rates['command']:.2f} frames/s, bare engine {rates['engine']:.2f}: "
          f"{rates['command'] / rates['engine']:.2f}; {rates['MiB']:.0f} MiB at most")  # fmt: skip
    if arguments.device.type == "cuda":
        print(f"memory of the GPU: {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB at most")


QUESTIONS = {
    "roofs": roofs_of_machine,
    "frame": frame,
    "parts": parts_of_frame,
    "first": first,
    "command": whole,
}


def _size(arguments: argparse.Namespace) -> int:
    return models.model_of(arguments.checkpoint).config.image_size


def main() -> None:
    """Answer the questions asked."""
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("--ask", choices=QUESTIONS, action="append", help="may be given often; default: all")
    parser.add_argument("--model", choices=models.CONFIGS, default="published", help="sizes")
    parser.add_argument("--checkpoint", type=Path, help="a run's folder, in place of synthetic weights")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4], help="frames at once")
    parser.add_argument("--rounds", type=int, default=5, help="medians of so many")
    parser.add_argument("--frames", type=int, default=48, help="of the video that the command animates")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="torch's")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="of frame; cpu with --threads 1")
    arguments = parser.parse_args()
    arguments.device = choose_device(arguments.device)
    torch.set_num_threads(arguments.threads)
    print(f"{platform.processor() or platform.machine()}, {arguments.device}, {arguments.threads} threads, "
          f"torch {torch.__version__}, {arguments.model}")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        if arguments.checkpoint is None:
            arguments.checkpoint = models.make_checkpoint(Path(folder), arguments.model)
        for name in arguments.ask or QUESTIONS:
            print(f"== {name}", flush=True)
            QUESTIONS[name](arguments)


if __name__ == "__main__":
    main()
