"""The chain in an object store: nothing on a disk but scratch, and killed in the middle it ends the same."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from pipelines.preprocess import preprocess
from pipelines.train import train
from safa.checkpoint.native import load_model, read_latest_state, read_model_weights
from safa.config import parse_settings
from safa.config.preprocess import PreprocessConfig
from safa.config.synthetic import SyntheticConfig
from safa.config.training import TrainConfig
from safa.files import atomic_write, dir_names, entries, exists, join, read_bytes
from safa.synthetic import write_dataset
from safa.training.metrics_logger import read_metrics

ROOT = Path(__file__).parents[2]
SIZE = 32  # px
STEP_WITHIN = 200  # seconds, on a busy machine

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(900)]


@pytest.fixture
def data(s3: str) -> str:
    """A data set that was rendered into the store, and preprocessed from there."""
    people = SyntheticConfig(
        num_people=4,
        num_held_out=1,
        videos_per_person=1,
        frames_per_video=12,
        two_clip_share=0.0,
        frame_size=(64, 64),
    )
    videos = join(s3, "videos")
    write_dataset(people, videos, workers=1)
    source = {"kind": "metadata", "csv": join(videos, "metadata.csv"), "videos": join(videos, "videos")}
    settings = {"source": source, "out": join(s3, "data"), "size": SIZE, "min_frames": 8, "min_box": 16}
    summary = preprocess(parse_settings(settings, PreprocessConfig, "test"))
    assert (summary.total, summary.ok) == (4, 4)
    return str(join(s3, "data", "clips"))


def settings_of(runs: str, data: str, model: dict[str, Any], stage: str, workers: int) -> dict[str, Any]:
    """The settings of one stage; the second begins with the 3DMM of the first."""
    start = {"kind": "head"} if stage == "pretrain" else {"kind": "full", "init": f"{join(runs, 'pretrain')}"}
    return {
        "runs": runs,
        "name": stage,
        "model": model,
        "data": {"clips": data, "batch_size": 2, "num_repeats": 2},
        "stage": start,
        "schedule": {"unit": "steps", "length": 12 if stage == "pretrain" else 2},
        "validate_on": {"every": 4, "clips": 1, "frames": 2},
        "checkpoint": {"every": 2},
        "log_every": 2,
        "scale": {"num_workers": workers, "cpus_per_worker": 0.5},
    }


def start(settings: dict[str, Any], folder: Path) -> subprocess.Popen[bytes]:
    """The training program with a cluster of its own, in an empty folder, with its config in the store."""
    config = join(settings["runs"], f"{settings['name']}.yaml")
    atomic_write(config, yaml.safe_dump(settings))
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "TMPDIR": str(folder / "scratch")}
    environment |= {"RAY_TMPDIR": tempfile.gettempdir()}  # a socket has a short path
    for name in ("scratch", "work"):
        (folder / name).mkdir(exist_ok=True)
    with (folder / "log").open("ab") as log:
        command = [sys.executable, "-m", "pipelines.train", "--config", str(config)]
        return subprocess.Popen(
            command, cwd=folder / "work", env=environment, stdout=log, stderr=log, start_new_session=True
        )


def test_the_chain_in_a_store_killed_in_the_middle(
    s3: str, data: str, tiny_model: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Undisturbed, in this process and without Ray.
    monkeypatch.chdir(tmp_path)
    calm = str(join(s3, "calm"))
    for stage in ("pretrain", "train"):
        train(parse_settings(settings_of(calm, data, tiny_model, stage, 0), TrainConfig, "test"))
    assert list(tmp_path.iterdir()) == []

    # The programs, on Ray; the first is killed once it has a state, and started again.
    folder, runs = tmp_path, str(join(s3, "killed"))
    head = settings_of(runs, data, tiny_model, "pretrain", 1)
    killed = start(head, folder)
    wait_for_state(str(join(runs, "pretrain", "checkpoints")), killed, folder)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert not exists(join(runs, "pretrain", "manifest.json"))
    for settings in (head, settings_of(runs, data, tiny_model, "train", 1)):
        left = set((folder / "scratch").glob("safa-*"))  # by the killed one
        assert start(settings, folder).wait(STEP_WITHIN) == 0, (folder / "log").read_text()[-4000:]
        assert set((folder / "scratch").glob("safa-*")) <= left
    assert "resuming from" in (folder / "log").read_text()

    for stage in ("pretrain", "train"):
        assert_equal_runs(str(join(calm, stage)), str(join(runs, stage)))
    model, info = load_model(join(runs, "train"))
    assert (info.stage, info.step, model.training) == ("full", 2, False)
    ray_notes = [entry.name for entry in entries(join(runs, "train", "ray"))]
    assert any(name.startswith("start-") for name in ray_notes)
    assert list((folder / "work").iterdir()) == []


def wait_for_state(states: str, process: subprocess.Popen[bytes], folder: Path) -> None:
    """Until the store has a training state."""
    deadline = time.monotonic() + STEP_WITHIN
    while not dir_names(states):
        log = (folder / "log").read_text()[-4000:]
        assert process.poll() is None, log
        assert time.monotonic() < deadline, log
        time.sleep(0.05)


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
