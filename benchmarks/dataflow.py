"""How busy the graphs keep a GPU, and what their driver costs where the work itself costs nothing.

Stages that sleep stand for downloads, decoding and networks, on logical CPUs and GPUs: neither is needed. The
graphs, their rows and their workers are those of the pipelines. "Busy" is the time in the model's stage over
that of all its processes, from the first window to the last.

- ``pairs``: drawing as many pairs as there are clips, and reading them back from a list;
- ``evaluate``: 10 ms of model and 70 ms of other work a window of 1 MB, on 16 CPUs and 2 GPUs;
- ``preprocess``: downloads of 200 ms, crops of 100 ms and 50 ms of GPU a piece of 1 MB, likewise;
- ``driver``: a whole evaluation of ``--clips`` clips, of two frames each, without reading, model and scores;
- ``hour``: one video of an hour over 4 actors, and over 1, where 128 frames take 0.5 s.

Run: python benchmarks/dataflow.py [--ask pairs] [--clips 20000]
"""

from __future__ import annotations

import argparse
import logging
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dataset
import evaluate as evaluate_benchmark
import numpy as np
import ray

from pipelines import clip_stages, evaluate, preprocess
from pipelines.launch import set_up_logging, set_up_ray_data
from pipelines.shared_folder import shared
from pipelines.window_stages import MODEL, READ, SCORE, Tools, WindowRunner
from safa.config import parse_settings
from safa.config.inference import AnimationConfig, EvaluateConfig
from safa.config.preprocess import PreprocessConfig
from safa.data.clip_maker import Piece
from safa.data.clip_store import ClipInfo
from safa.data.shards import ClipRecord
from safa.data.sources import ClipJob
from safa.errors import Failure
from safa.evaluation.frame_scores import SCORES
from safa.evaluation.jobs import EvaluationJob, draw_pairs, read_pairs
from safa.evaluation.window_stages import ScoredWindow
from safa.evaluation.windows import Window, windows_of

OF_A_PERSON = 20  # clips
CPUS, GPUS = 16, 2  # logical ones
BUSY_WINDOWS, BUSY_PIECES = 9000, 2400
PAYLOAD = 2**20  # bytes of a window, or a piece, between stages
BUSY_LOG = "BENCHMARK_BUSY"  # names the folder where workers note when their model was busy
HOUR = 25 * 3600  # frames


def clip(number: int) -> ClipInfo:
    """A clip that exists in name only."""
    person = f"id{number // OF_A_PERSON:06d}"
    name = f"{person}#v{number:07d}#000000#000002"
    return ClipInfo(number, name, person, "v", "test", 0, 2, 2, 25.0, 64, 64, (0, 0, 64, 64), "test")


@contextmanager
def timed(what: str, count: int) -> Iterator[None]:
    """Print the wall time of the block, and the driver's peak memory so far."""
    began = time.perf_counter()
    yield
    seconds, peak = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{what}: {seconds:.2f} s for {count} clips, {1000 * seconds / count:.3f} ms each; {peak:.2f} GiB")


def pairs(count: int, work: Path) -> None:
    """Draw pairs, and read them from a list."""
    clips = [clip(number) for number in range(count)]
    with timed("pairs drawn", count):
        drawn = draw_pairs(clips, AnimationConfig(pairs=count))
    assert len(set(drawn)) == count
    lines = (f"{source},{driving}\n" for source, driving in drawn)
    (work / "pairs.csv").write_text("source,driving\n" + "".join(lines), encoding="utf-8")
    known = {each.clip_id for each in clips}
    with timed("pairs read", count):
        assert read_pairs(work / "pairs.csv", known) == drawn


# ---- stages that sleep -------------------------------------------------------------------------------------


@dataclass
class Sleeper:
    """A stage that takes its time: seconds for each window; ``noted`` where the time counts as busy."""

    stage: str
    seconds: float
    payload: int
    noted: Path | None = None

    def __call__(self, made: Any) -> Any:
        began = time.time()
        time.sleep(self.seconds)
        if self.noted is not None:
            note_busy(self.noted, began)
        window = made if isinstance(made, Window) else made[0]
        if self.stage != SCORE:
            return window, np.zeros(self.payload, np.uint8)  # as many bytes as a real one, and an array, too
        scores = np.zeros((window.last - window.first, len(SCORES)))
        return ScoredWindow(window, "a", "a", 25.0, scores, None, {}, self.seconds)


def note_busy(folder: Path, began: float) -> None:
    """Note that this process was busy from then until now."""
    with (folder / f"{os.getpid()}").open("a") as file:
        file.write(f"{began} {time.time()}\n")


def busy_share(folder: Path, processes: int, after: float = 0.0) -> float:
    """The noted time over that of all processes, from the first beginning to the last end.

    Args:
        after: share of that time that is left out at its start, when not all workers are there.
    """
    first, last = span(folder)
    start = first + after * (last - first)
    noted = sum(max(0.0, end - max(begin, start)) for begin, end in noted_times(folder))
    return noted / (processes * (last - start))


def busy(folder: Path) -> str:
    """Both shares of the GPUs, in words."""
    whole, late = busy_share(folder, GPUS), busy_share(folder, GPUS, after=0.5)
    return f"GPUs busy {whole:.2f}, in the second half {late:.2f}"


def span(folder: Path) -> tuple[float, float]:
    """When the first noted time begins, and when the last one ends."""
    times = noted_times(folder)
    return min(begin for begin, _ in times), max(end for _, end in times)


def noted_times(folder: Path) -> list[tuple[float, float]]:
    """Beginning and end of each noted time, in seconds since 1970."""
    lines = [line.split() for path in folder.iterdir() for line in path.open()]
    return [(float(begin), float(end)) for begin, end in lines]


def sleeping_runner(seconds: dict[str, float], payload: int, noted: Path | None) -> type[WindowRunner]:
    """A ``WindowRunner`` whose stages sleep; it writes real parts."""

    class SleepTools(Tools):
        def stage(self, name: str) -> Callable[[Any], Any]:
            return Sleeper(name, seconds.get(name, 0.0), payload, noted if name == MODEL else None)

    class SleepRunner(WindowRunner):
        def _make_tools(self, config: EvaluateConfig) -> Tools:
            return SleepTools(config)

    return SleepRunner


def evaluate_windows(windows: Sequence[Window], out: Path, scale: dict[str, Any]) -> float:
    """Send windows through the graph of evaluation. Returns the seconds."""
    settings = {"model": "m", "clips": "c", "out": str(out), "scale": scale}
    config = parse_settings(settings, EvaluateConfig, "benchmark")
    began = time.perf_counter()
    with shared(out) as probe:
        done = sum(item.failure is None for item in evaluate.process(config, windows, probe))
    assert done == len(windows)
    return time.perf_counter() - began


def busy_evaluate(_: int, work: Path) -> None:
    """The busy share of two GPUs."""
    start_ray(CPUS, GPUS)
    for attempt in (1, 2):
        noted, out = work / f"noted{attempt}", work / f"out{attempt}"
        noted.mkdir()
        out.mkdir()
        seconds = {READ: 0.03, MODEL: 0.01, SCORE: 0.04}
        vars(evaluate)["WindowRunner"] = sleeping_runner(seconds, PAYLOAD, noted)
        job = EvaluationJob("reconstruction", "a#v#000000#000002", "a#v#000000#000002")
        windows = [Window(job, number, 0, 0, 2, 2, False) for number in range(BUSY_WINDOWS)]
        scale = {"gpus_per_actor": 1.0, "cpus_per_actor": 0.5, "actors": [GPUS, GPUS]}
        spent = evaluate_windows(windows, out, scale)
        print(f"evaluate, run {attempt}: {busy(noted)}; {spent:.1f} s for {len(windows)} windows", flush=True)


def hour(_: int, work: Path) -> None:
    """One long video over several actors."""
    start_ray(CPUS, 0)
    clip = f"a#v#000000#{HOUR:06d}"
    windows = list(windows_of(EvaluationJob("reconstruction", clip, clip), 0, HOUR, 128, shown=False))
    spent, working = {}, {}
    for actors in (4, 1):
        noted, out = work / f"noted{actors}", work / f"out{actors}"
        noted.mkdir()
        out.mkdir()
        vars(evaluate)["WindowRunner"] = sleeping_runner({MODEL: 0.5}, 0, noted)
        spent[actors] = evaluate_windows(windows, out, {"actors": [actors, actors]})
        first, last = span(noted)
        working[actors] = last - first
    print(f"hour: {spent[4]:.0f} s over 4 actors, {spent[1]:.0f} s over 1: {spent[1] / spent[4]:.2f}", end="")
    print(f"; from the first window to the last {working[1] / working[4]:.2f}")


def driver(count: int, work: Path) -> None:
    """A whole evaluation in which only the driver has work."""
    ray.init("local", include_dashboard=False, logging_level=logging.ERROR)
    set_up_ray_data()
    vars(evaluate)["WindowRunner"] = sleeping_runner({}, 0, None)
    model = evaluate_benchmark.make_model(work / "model", 256, published=False)
    dataset.write_index(work / "clips", count, 2)
    settings = {
        "model": str(model),
        "clips": str(work / "clips"),
        "splits": ["train", "test"],
        "out": str(work / "out"),
        "modes": ["reconstruction"],
        "report": {"videos": 0},
        "scale": {"actors": [2, 2]},
    }
    with timed("driver", count):
        numbers = evaluate.evaluate(parse_settings(settings, EvaluateConfig, "benchmark"), {})
    assert numbers["counts"]["ok"] == count


# ---- preprocess --------------------------------------------------------------------------------------------


class SlowDownload:
    """Downloads of 200 ms."""

    def __init__(self, config: PreprocessConfig) -> None:
        pass

    def __call__(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            time.sleep(0.2)
            yield item


class SlowCrop(SlowDownload):
    """Crops of 100 ms, of one piece."""

    def __call__(self, items: Iterable[Any]) -> Iterator[Any]:
        for video in items:
            for job in video.jobs:
                time.sleep(0.1)
                record = ClipRecord(
                    *(job.clip_id, "p", "v", "test", 0, 4, 25.0, 256, 256, (0, 0, 9, 9), "benchmark")
                )
                yield Piece(record, 0, 0, (bytes(PAYLOAD),), True)


class SlowLandmarks(SlowDownload):
    """50 ms a piece."""

    def __call__(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            began = time.time()
            time.sleep(0.05)
            note_busy(Path(os.environ[BUSY_LOG]), began)
            yield item


class NoWrite(SlowDownload):
    """Says that a piece is stored."""

    def __call__(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            yield clip_stages.Stored(item.record.clip_id, 0, 4, True)


class SlowRunner(clip_stages.StageRunner):
    """The stages above in place of the real ones."""

    def _stage(self, stage: str, name: str) -> Any:
        kinds = {
            clip_stages.DOWNLOAD: SlowDownload,
            clip_stages.CROP: SlowCrop,
            clip_stages.LANDMARKS: SlowLandmarks,
            clip_stages.WRITE: NoWrite,
        }
        return kinds[stage](self._config)


def busy_preprocess(_: int, work: Path) -> None:
    """The busy share of two GPUs."""
    noted = work / "noted"
    os.environ[BUSY_LOG] = str(noted)
    start_ray(CPUS, GPUS)
    vars(preprocess)["StageRunner"] = SlowRunner
    network = {"kind": "face_alignment", "weights": "w", "detector": {"name": "sfd", "weights": "w"}}
    source = {
        "kind": "metadata",
        "csv": "c",
        "videos": str(work / "videos"),
        "download": {"kind": "yt_dlp", "parallel": 16},
    }
    settings = {
        "source": source,
        "out": str(work / "out"),
        "landmarks": network,
        "stages": {"landmarks": {"gpus": 1.0, "cpus": 0.5, "actors": [GPUS, GPUS]}, "crop": {"cpus": 1.0}},
    }
    config = parse_settings(settings, PreprocessConfig, "benchmark")
    jobs = [
        ClipJob(f"p#v{n:05d}#000000#000004", "p", f"v{n:05d}", "test", "v.mp4", 0, 4, 25.0, None, None, None)
        for n in range(BUSY_PIECES)
    ]
    for attempt in (1, 2):
        noted.mkdir()
        began, done = time.perf_counter(), 0
        with shared(work) as probe:
            outcomes = preprocess.graph(config, preprocess.job_rows(config, jobs), len(jobs), (probe,))
            for table in outcomes.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                done += sum(not isinstance(item, Failure) for item in clip_stages.items_of(table))
        assert done == len(jobs)
        spent = time.perf_counter() - began
        print(f"preprocess, run {attempt}: {busy(noted)}; {spent:.1f} s for {done} pieces", flush=True)
        noted.rename(work / f"noted{attempt}")


def start_ray(cpus: int, gpus: int) -> None:
    """A machine of so many logical CPUs and GPUs."""
    set_up_logging()
    ray.init("local", num_cpus=cpus, num_gpus=gpus, include_dashboard=False, logging_level=logging.ERROR)
    set_up_ray_data()


def main() -> None:
    """Print the figures, one a line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asks = {
        "pairs": pairs,
        "evaluate": busy_evaluate,
        "preprocess": busy_preprocess,
        "driver": driver,
        "hour": hour,
    }
    parser.add_argument("--ask", choices=asks, default="pairs", help="what to measure")
    parser.add_argument("--clips", type=int, default=20_000, help="how many")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        asks[arguments.ask](arguments.clips, Path(folder))


if __name__ == "__main__":
    main()
