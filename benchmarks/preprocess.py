"""What preprocessing costs: against ffmpeg alone, on two workers, for Ray, in memory, for long lists.

Times of work are CPU seconds of this process and its children, so that other load on the machine does not
count; times of Ray are by the clock. Everything is measured in one run, medians where there are repeats.
"""

from __future__ import annotations

import contextlib
import csv
import io
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pyarrow as pa
import ray

from pipelines.clip_stages import CROP, WRITE, StageRunner, Stored, Video, items_of, tables_of
from pipelines.launch import set_up_logging
from pipelines.preprocess import job_rows, print_cost_estimate
from safa.config.preprocess import (
    ClipsSource,
    MetadataSource,
    NoLandmarks,
    PreprocessConfig,
    SidecarLandmarks,
)
from safa.data.clip_maker import crop_clip, write_piece
from safa.data.shards import ShardWriter
from safa.data.sources import COLUMNS, ClipJob
from safa.files import join

REPEATS = 5
FRAMES = 250  # of the clip that is timed
CLIPS = 12  # for two workers over one
EMPTY_CLIPS = 2000  # for Ray's own cost
LONG, SHORT = 7200, 120  # seconds of video
VIDEO_FPS = 5  # of these, to keep the benchmark short; memory does not depend on it
LISTED = 20_075  # clips of VoxCeleb's list
LARGE = 1_000_000
BOX = (440, 60, 840, 460)


def main() -> None:
    """Print every figure."""
    set_up_logging()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        video = folder / "video.mp4"
        _draw(video, "1280x720", 25, 16)
        _against_ffmpeg(folder, video)
        _workers(folder, video)
        _memory(folder)
        _lists(folder)


def _draw(path: Path, size: str, fps: int, seconds: int) -> None:
    scene = f"testsrc2=size={size}:rate={fps}:duration={seconds}"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error", "-f", "lavfi", "-i", scene]
    subprocess.run(
        [*command, "-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p", str(path)], check=True
    )


def _config(
    folder: Path, size: int = 256, fps: float = 25.0, csv_file: Path | None = None
) -> PreprocessConfig:
    source = (
        MetadataSource(kind="metadata", csv=csv_file, videos=folder)
        if csv_file
        else ClipsSource(kind="clips", folder=folder)
    )
    none = NoLandmarks(kind="none")
    return PreprocessConfig(source=source, out=folder / "out", landmarks=none, size=size, fps=fps, min_box=32)


def _job(video: Path, number: int) -> ClipJob:
    """Frames 50 to 300 of the video, under an id of its own."""
    name = f"p#{video.stem}#{number:06d}#000300"
    return ClipJob(name, "p", video.stem, "train", str(video), 50, 50 + FRAMES, 25.0, BOX, 1280, 720)


def _make(job: ClipJob, config: PreprocessConfig) -> None:
    with ShardWriter(join(config.out, "clips")) as shard:
        for piece in crop_clip(job, config):
            write_piece(shard, piece)


def _cpu_seconds(work: Callable[[], object]) -> float:
    before = os.times()
    work()
    after = os.times()
    return sum(after[:4]) - sum(before[:4])


def _against_ffmpeg(folder: Path, video: Path) -> None:
    config = _config(folder)

    def ffmpeg(*output: str) -> Callable[[], None]:
        """The same trimming, cropping and scaling by ffmpeg, to what the options say."""
        graph = "setpts=PTS-1/TB,fps=25:start_time=0,trim=end_frame=250,crop=400:400:440:60"
        graph += ",scale=256:256:flags=area+accurate_rnd+full_chroma_int"
        exe = imageio_ffmpeg.get_ffmpeg_exe()
        command = [exe, "-loglevel", "error", "-threads", "1", "-ss", "1", "-i", str(video), "-vf", graph]
        command += ["-fps_mode", "passthrough", "-threads", "1", *output, "-y", os.devnull]
        return lambda: run(command)

    def run(command: list[str]) -> None:
        subprocess.run(command, check=True)

    raw = ffmpeg("-pix_fmt", "rgb24", "-f", "rawvideo")  # thrown away
    jpeg = ffmpeg("-pix_fmt", "yuvj444p", "-c:v", "mjpeg", "-q:v", "2", "-f", "image2pipe")
    numbers = iter(range(REPEATS))
    rounds = [
        (
            _cpu_seconds(raw),
            _cpu_seconds(jpeg),
            _cpu_seconds(lambda: _make(_job(video, next(numbers)), config)),
        )
        for _ in range(REPEATS)
    ]
    alone, with_jpeg, ours = (statistics.median(column) for column in zip(*rounds, strict=True))
    stored = max(path.stat().st_size for path in (folder / "out").rglob("*.parquet")) / FRAMES
    print(f"frames per core-second: ffmpeg alone {FRAMES / alone:.1f}, whole {FRAMES / ours:.1f}")
    print(f"whole over ffmpeg alone: {alone / ours:.2f}, over ffmpeg with JPEGs: {with_jpeg / ours:.2f}")
    print(f"bytes per stored frame {stored:.0f}")
    shutil.rmtree(folder / "out")


def _workers(folder: Path, video: Path) -> None:
    """One worker on one core against two workers on two; a worker's ffmpeg runs on the worker's cores."""
    seconds = {cpus: _in_a_process(_on_ray, (folder, video, cpus)).result for cpus in (1, 2)}
    times = f"{seconds[1]:.1f} s, {seconds[2]:.1f} s"
    print(f"2 workers over 1: {seconds[1] / seconds[2]:.2f}x ({times}; aim: at least 1.8)")


def _on_ray(folder: Path, video: Path, cpus: int) -> float:
    """Median seconds for the clips, in a process of its own: Ray starts anew, on so many cores."""
    set_up_logging()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cpus])  # all that Ray starts inherits it
    ray.init("local", num_cpus=cpus, include_dashboard=False, logging_level="ERROR")
    ray.cloudpickle.register_pickle_by_value(sys.modules[_NoWork.__module__])  # which workers cannot import
    config = _config(folder)
    _drain(config, [_job(video, 9000 + number) for number in range(2 * cpus)], StageRunner)
    parts = [range(start, start + CLIPS) for start in range(1000 * cpus, 1000 * cpus + 100 * REPEATS, 100)]
    seconds = statistics.median(  # other clips each time: those that are there would not be made again
        _drain(config, [_job(video, number) for number in part], StageRunner) for part in parts
    )
    if cpus == 2:
        empty = [_job(video, 10_000 + number) for number in range(EMPTY_CLIPS)]
        cost = statistics.median(_drain(config, empty, _NoWork) for _ in range(REPEATS))
        print(f"Ray's own cost: {1000 * cost / EMPTY_CLIPS:.2f} s per 1,000 clips", flush=True)
    ray.shutdown()
    return seconds


class _NoWork:
    """Does nothing to a row: what is left is Ray's own cost."""

    def __init__(self, config: PreprocessConfig, stages: Sequence[str]) -> None:
        """The settings make no difference."""

    def __call__(self, block: pa.Table) -> Iterator[pa.Table]:
        """Every clip is finished at once."""
        videos = [item for item in items_of(block) if isinstance(item, Video)]
        return tables_of(Stored(job.clip_id, 0, 0, last=True) for video in videos for job in video.jobs)


def _drain(
    config: PreprocessConfig,
    jobs: Sequence[ClipJob],
    runner: Callable[[PreprocessConfig, Sequence[str]], Callable[[pa.Table], Iterator[pa.Table]]],
) -> float:
    began = time.perf_counter()
    rows = job_rows(config, jobs).map_batches(
        runner(config, (CROP, WRITE)), batch_size=None, batch_format="pyarrow"
    )
    outcomes = rows.iter_batches(batch_size=None, batch_format="pyarrow")
    count = sum(item.last for table in outcomes for item in items_of(table) if isinstance(item, Stored))
    assert count == len(jobs)
    return time.perf_counter() - began


# ---- memory ------------------------------------------------------------------------------------------------


def _memory(folder: Path) -> None:
    peaks = {}
    for seconds in (SHORT, LONG):
        video = folder / f"video{seconds}.mp4"
        _draw(video, "160x160", VIDEO_FPS, seconds)
        np.save(video.with_suffix(".landmarks.npy"), np.ones((seconds * VIDEO_FPS, 68, 2), np.float32))
        peaks[seconds] = _in_a_process(_whole_video, (folder, video))
        video.unlink()
    most = {seconds: memory.peak_mib for seconds, memory in peaks.items()}
    sizes = f"{most[LONG]:.0f} MiB over {most[SHORT]:.0f} MiB"
    ratio = most[LONG] / most[SHORT]
    print(f"peak memory, a clip of 2 hours over one of 2 minutes: {ratio:.2f} ({sizes}; aim: at most 1.3)")


def _whole_video(folder: Path, video: Path) -> None:
    config = _config(folder, size=64, fps=float(VIDEO_FPS)).model_copy(
        update={"landmarks": SidecarLandmarks()}
    )
    _make(ClipJob(video.stem, "p", "v", "train", str(video), 0, None, None, None, None, None), config)


@dataclass(frozen=True)
class _Outcome:
    """What a fresh process measured: its result, its peak memory, and how much that is above its start."""

    result: float
    peak_mib: float
    grown_mib: float


def _in_a_process(work: Callable[..., float | None], arguments: tuple[object, ...]) -> _Outcome:
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_measure, args=(queue, work, arguments))
    process.start()
    process.join()  # an outcome is small enough for the pipe
    if process.exitcode != 0:
        raise SystemExit("a measurement broke off")
    outcome: _Outcome = queue.get()
    return outcome


def _measure(queue: Any, work: Callable[..., float | None], arguments: tuple[object, ...]) -> None:
    Path("/proc/self/clear_refs").write_text("5")  # the peak of the imports doesn't count
    before = _status("VmRSS")
    result = work(*arguments)
    peak = _status("VmHWM")
    queue.put(_Outcome(result or 0.0, peak, peak - before))


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name + ":"))


# ---- lists -------------------------------------------------------------------------------------------------


def _lists(folder: Path) -> None:
    """Cost estimate and anti-join; a tenth of the clips is done."""
    costs = []
    for count in (LISTED, LARGE):
        root = folder / f"list{count}"
        done = root / "out" / "clips" / "split=train"
        done.mkdir(parents=True)
        for name in _write_list(root / "list.csv", count)[::10]:
            (done / f"{name}.parquet").touch()
        began = _children_seconds()
        memory = _in_a_process(_estimate, (root,))
        costs.append((_children_seconds() - began, memory.grown_mib))
        print(
            f"cost estimate and anti-join of {count} clips: {costs[-1][0]:.1f} CPU s, {costs[-1][1]:.0f} MiB"
        )
    growth = LARGE / LISTED
    seconds, mib = (large / small / growth for small, large in zip(*costs, strict=True))
    print(f"growth over that of the list: time {seconds:.2f}, memory {mib:.2f} (aim: at most 1)")


def _children_seconds() -> float:
    now = os.times()
    return now.children_user + now.children_system


def _estimate(root: Path) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        print_cost_estimate(_config(root, csv_file=root / "list.csv"))


def _write_list(path: Path, count: int) -> list[str]:
    ids = []
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for number in range(count):
            video, start = f"video{number // 6:06d}", 300 * (number % 6)
            writer.writerow([video, start, start + 200, "100-100-500-500", 25, 1280, 720, "train", "id1"])
            ids.append(f"id1#{video}#{start:06d}#{start + 200:06d}")
    return ids


if __name__ == "__main__":
    main()
