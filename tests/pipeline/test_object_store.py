"""The chain in an object store: nothing on a disk but scratch, and killed in the middle it ends the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml

from pipelines.demo import demo
from pipelines.evaluate import compare
from safa.checkpoint.native import load_model, read_latest_state, read_model_weights
from safa.config import parse_settings
from safa.config.demo import DemoConfig
from safa.files import atomic_write, dir_names, entries, exists, join, local_file, read_bytes
from safa.training.metrics_logger import read_metrics

ROOT = Path(__file__).parents[2]
SIZE = 32  # px
SCRATCH = "s"  # temporary files, below a path that may be long: Python's own sockets lie there
STEP_WITHIN = 900  # seconds, on a busy machine

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(1800)]


def settings_of(run: str, model: dict[str, Any], workers: int) -> dict[str, Any]:
    """The smallest demo of which each part does its work; with workers, the trainings run on Ray."""
    training: dict[str, Any] = {
        "data": {"batch_size": 2, "num_repeats": 2},
        "validate_on": {"every": 4, "clips": 1, "frames": 2},
        "checkpoint": {"every": 2},
        "log_every": 2,
        "scale": {"num_workers": workers, "cpus_per_worker": 0.5},
    }

    def schedule(length: int) -> dict[str, Any]:
        return {"schedule": {"unit": "steps", "length": length}}

    return {
        "run": run,
        "model": model,
        "processes": 1,
        "synthetic": {
            **{"num_people": 4, "num_held_out": 2, "videos_per_person": 1, "frames_per_video": 12},
            **{"two_clip_share": 0.0, "frame_size": [64, 64]},
        },
        "preprocess": {"min_frames": 8, "min_box": 16, "stages": {"crop": {"cpus": 0.5}}},
        "pretrain": {"stage": {"kind": "head"}, **schedule(20), **training},
        "train": {"stage": {"kind": "full"}, **schedule(2), **training},
        "evaluate": {
            "modes": ["reconstruction", "animation", "swap", "mesh"],
            "frames": 6,
            "animation": {"pairs": 1},
            "visuals": {"panel": 32, "strip_frames": 2},
            "scale": {"cpus_per_actor": 0.5, "actors": [1, 1]},
        },
    }


def start(settings: dict[str, Any], config: str, folder: Path) -> subprocess.Popen[bytes]:
    """The demo with a cluster of its own, in an empty folder, with its config in the store."""
    atomic_write(config, yaml.safe_dump(settings))
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "TMPDIR": str(folder / SCRATCH)}
    environment |= {"RAY_TMPDIR": tempfile.gettempdir()}  # a socket has a short path
    for name in (SCRATCH, "work"):
        (folder / name).mkdir(exist_ok=True)
    with (folder / "log").open("ab") as log:
        command = [sys.executable, "-m", "pipelines.demo", "--config", config]
        return subprocess.Popen(
            command, cwd=folder / "work", env=environment, stdout=log, stderr=log, start_new_session=True
        )


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.soak)])
def test_the_chain_in_a_store_killed_in_the_middle(
    s3: str, tiny_model: dict[str, Any], tmp_path: Path, workers: int
) -> None:
    """Killed once the first training has a state, then started again; on Ray, compared with a calm run."""
    run = str(join(s3, "run"))
    folder, config = tmp_path, str(join(s3, "demo.yaml"))
    settings = settings_of(run, tiny_model, workers)
    killed = start(settings, config, folder)
    wait_for_state(str(join(run, "pretrain", "checkpoints")), killed, folder)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert not exists(join(run, "pretrain", "manifest.json"))
    wait_until_gone(folder)
    left = set((folder / SCRATCH).glob("safa-*"))  # by the killed one
    assert start(settings, config, folder).wait(STEP_WITHIN) == 0, (folder / "log").read_text()[-4000:]
    assert set((folder / SCRATCH).glob("safa-*")) <= left
    assert list((folder / "work").iterdir()) == []
    log = (folder / "log").read_text()
    assert "resuming from" in log
    assert "test:test" not in log  # the keys that the URI carries

    model, info = load_model(join(run, "train"))
    assert (info.stage, info.step, model.training) == ("full", 2, False)
    assert_complete(str(join(run, "report")))
    if not workers:
        return
    ray_notes = [entry.name for entry in entries(join(run, "train", "ray"))]
    assert any(name.startswith("start-") for name in ray_notes)
    # Undisturbed, on a disk and in this process; the trainings without Ray.
    calm = str(tmp_path / "calm")
    demo(parse_settings(settings_of(calm, tiny_model, 0), DemoConfig, "test"))
    for stage in ("pretrain", "train"):
        assert_equal_runs(str(join(calm, stage)), str(join(run, stage)))
    numbers = [json.loads(read_bytes(join(where, "report", "metrics.json"))) for where in (calm, run)]
    for each in numbers:
        del each["seconds"]
    assert numbers[0] == numbers[1]
    compare([join(calm, "report"), join(run, "report")], join(s3, "both"))
    assert b"<video" in read_bytes(join(s3, "both", "index.html"))


def wait_for_state(states: str, process: subprocess.Popen[bytes], folder: Path) -> None:
    """Until the store has a training state."""
    deadline = time.monotonic() + STEP_WITHIN
    while not dir_names(states):
        log = (folder / "log").read_text()[-4000:]
        assert process.poll() is None, log
        assert time.monotonic() < deadline, log
        time.sleep(0.05)


def wait_until_gone(folder: Path) -> None:
    """Until the workers of the killed program have ended, which know its scratch folder by a variable."""
    deadline, mark = time.monotonic() + 60, f"TMPDIR={folder / SCRATCH}".encode()
    while time.monotonic() < deadline and any(mark in _environment(each) for each in Path("/proc").iterdir()):
        time.sleep(0.2)


def _environment(process: Path) -> bytes:
    try:
        return (process / "environ").read_bytes()
    except OSError:  # no process, another user's, or gone
        return b""


def assert_equal_runs(one: str, other: str) -> None:
    """Models, states and metrics are the same, bit for bit; times aside."""
    weights, others = (read_model_weights(run)[0] for run in (one, other))
    assert weights.keys() == others.keys()
    assert all(torch.equal(value, others[name]) for name, value in weights.items())
    states = [read_latest_state(join(run, "checkpoints")) for run in (one, other)]
    moments = [state[1].moments for state in states if state is not None]
    for network, values in moments[0].items():
        assert all(torch.equal(value, moments[1][network][name]) for name, value in values.items())
    rows = [
        [(row["kind"], row["step"], row.get("losses", row.get("scores"))) for row in read_metrics(where)]
        for where in (join(one, "metrics.jsonl"), join(other, "metrics.jsonl"))
    ]
    assert rows[0] == rows[1]
    for name in ("curves.png", "strip.png"):
        assert read_bytes(join(other, name))[:4] == b"\x89PNG"
    assert any(entry.name.startswith("events") for entry in entries(join(other, "tensorboard")))


def assert_complete(report: str) -> None:
    """All clips, their frames, and everything that the page shows."""
    numbers = json.loads(read_bytes(join(report, "metrics.json")))
    assert numbers["counts"] == {"in": 6, "ok": 6, "quarantined": 0}
    rows = 0
    for entry in entries(join(report, "frames")):
        with local_file(entry.location) as path:
            rows += pq.read_table(path).num_rows
    assert rows == 2 * 6
    page = read_bytes(join(report, "index.html")).decode()
    for mode in ("reconstruction", "animation", "swap", "mesh"):
        clips = join(report, "clips", mode)
        names = dir_names(clips)
        assert names
        for name in names:
            assert read_bytes(join(clips, name, "video.mp4"))[4:8] == b"ftyp"
            assert f"clips/{mode}/{name}/video.mp4" in page
