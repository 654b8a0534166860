"""``pipelines.train`` as its user meets it: killed, interrupted, started again, changed; alone and on Ray."""

from __future__ import annotations

import copy
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines import train as pipeline
from pipelines.run_folder import lock_settings
from safa.config import load_settings, parse_settings
from safa.config.demo import DemoConfig
from safa.config.training import TrainConfig
from safa.errors import UserError
from safa.training.metrics_logger import read_metrics
from safa.weights import read_tensors

ROOT = Path(__file__).parents[2]
SECONDS = 120  # more than any of these runs takes

pytestmark = [pytest.mark.slow]
soak = pytest.mark.soak  # what a shorter test, or one of the same fault, also sees

Settings = dict[str, Any]


@pytest.fixture
def settings(tmp_path: Path, tiny_clips: Path, tiny_model: Settings) -> Settings:
    """A head run of 40 small steps in this process."""
    return {
        "runs": str(tmp_path / "runs"),
        "name": "run",
        "model": tiny_model,
        "data": {"clips": str(tiny_clips), "batch_size": 2, "num_repeats": 2, "cache_mb": 1},
        "stage": {"kind": "head"},
        "schedule": {"unit": "steps", "length": 40, "milestones": [30]},
        "checkpoint": {"every": 5},
        "log_every": 1,
    }


def _start(settings: Settings) -> subprocess.Popen[str]:
    path = Path(settings["runs"]).parent / f"{settings['name']}.yaml"
    path.write_text(yaml.safe_dump(settings))
    return subprocess.Popen(
        [sys.executable, "-m", "pipelines.train", "--config", str(path)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _folder(settings: Settings) -> Path:
    return Path(settings["runs"]) / str(settings["name"])


def _wait_for_state(settings: Settings, process: subprocess.Popen[str]) -> None:
    """Until the first checkpoint is there."""
    deadline = time.monotonic() + SECONDS
    while not list((_folder(settings) / "checkpoints").glob("step-*")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "no checkpoint in time"
        time.sleep(0.005)


def _outcome(folder: Path) -> tuple[dict[str, bytes], list[dict[str, float]]]:
    """Final weights as bytes, and the losses of every step."""
    weights = read_tensors(folder / "model" / "weights.safetensors")
    rows = read_metrics(folder / "metrics.jsonl")
    return (
        {name: value.numpy().tobytes() for name, value in weights.items()},
        [row["losses"] for row in rows if row["kind"] == "train"],
    )


def _config(settings: Settings, **scale: Any) -> TrainConfig:
    return parse_settings(settings | {"scale": scale}, TrainConfig, "test")


@pytest.mark.parametrize("kind", [pytest.param("head", marks=soak), "full"])
def test_killed_and_started_again_equals_never_killed(settings: Settings, kind: str) -> None:
    if kind == "full":
        settings |= {"stage": {"kind": kind, "ema_decay": 0.9}, "checkpoint": {"every": 4}}
        settings["schedule"] = {"unit": "steps", "length": 16, "milestones": [12]}
    straight = settings | {"name": "straight"}
    pipeline.train(_config(straight))

    killed = settings | {"name": "killed"}
    process = _start(killed)
    _wait_for_state(killed, process)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=SECONDS)
    assert not (_folder(killed) / "model").exists(), "it was to be killed before its end"

    _, errors = _start(killed).communicate(timeout=SECONDS)
    assert "resuming from" in errors
    assert _outcome(_folder(killed)) == _outcome(_folder(straight))


@pytest.mark.parametrize(
    ("workers", "number"),
    [
        (0, signal.SIGINT),
        (0, signal.SIGTERM),
        pytest.param(2, signal.SIGINT, marks=[pytest.mark.ray, soak]),
        pytest.param(2, signal.SIGTERM, marks=[pytest.mark.ray, soak]),
    ],
)
def test_a_signal_saves_the_state_of_the_step_at_hand(
    settings: Settings, workers: int, number: signal.Signals
) -> None:
    length = 1000 if workers else 40  # more than are taken within a second
    settings |= {"schedule": {"unit": "steps", "length": length, "milestones": [30]}}
    settings |= {"scale": {"num_workers": workers, "cpus_per_worker": 0.5}}
    process = _start(settings)
    _wait_for_state(settings, process)
    process.send_signal(number)
    _, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 128 + number
    steps = [row["step"] for row in read_metrics(_folder(settings) / "metrics.jsonl")]
    states = sorted(int(p.name[5:]) for p in (_folder(settings) / "checkpoints").iterdir())
    assert states[-1] == steps[-1] < length, "no finished step is lost"
    last = errors.strip().splitlines()[-1]
    state = f"stopped after step {steps[-1]} of {length}, whose state is saved"
    assert last == f"{state}; run the same command again to resume"
    assert "\nTraceback" not in errors  # of this process: Ray's actors may complain, with a prefix


@soak
@pytest.mark.ray
def test_stopped_on_ray_and_resumed_equals_straight_through(settings: Settings) -> None:
    """Stopped on Ray, resumed in this process: the steps are those of a run that was never stopped."""
    settings["schedule"] = {"unit": "steps", "length": 300}
    stopped = settings | {"name": "stopped", "scale": {"num_workers": 1, "cpus_per_worker": 0.5}}
    process = _start(stopped)
    _wait_for_state(stopped, process)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=SECONDS)
    assert process.returncode == 143
    for each in (settings, stopped | {"scale": {}}):
        pipeline.train(_config({name: value for name, value in each.items() if name != "scale"}))
    assert _outcome(_folder(stopped)) == _outcome(_folder(settings))


def test_finished_run_is_left_alone(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    config = _config(settings | {"schedule": {"unit": "steps", "length": 3}})
    pipeline.train(config)
    model = config.folder / "model" / "weights.safetensors"
    before = model.stat().st_mtime_ns
    with caplog.at_level(logging.INFO):
        pipeline.train(config)
    assert "already finished" in caplog.text
    assert model.stat().st_mtime_ns == before


def test_other_settings_need_another_name_other_machines_do_not(settings: Settings) -> None:
    settings["schedule"] = {"unit": "steps", "length": 3}
    pipeline.train(_config(settings))
    versions = json.loads((_folder(settings) / "versions.json").read_text())
    assert versions.keys() >= {"python", "torch", "ray", "safa"}
    with pytest.raises(UserError, match="holds output of other settings") as error:
        pipeline.train(_config(settings | {"seed": 1}))
    assert "\n" not in str(error.value)
    pipeline.train(_config(settings, threads_per_worker=2))


WRONG = {
    "data.clips": "nowhere",
    "data.split": "holiday",
    "data.min_identities": 50,
    "model.image_size": 64,
    "model.head.assets": "nowhere.npz",
    "model.head.encoder_weights": "nowhere.pth",
}


@pytest.mark.parametrize("key", WRONG)
def test_a_start_that_failed_does_not_refuse_the_corrected_command(
    settings: Settings, tmp_path: Path, key: str
) -> None:
    settings["schedule"] = {"unit": "steps", "length": 2}
    wrong = copy.deepcopy(settings)
    *sections, leaf = key.split(".")
    node = wrong
    for section in sections:
        node = node[section]
    value = WRONG[key]
    node[leaf] = str(tmp_path / value) if isinstance(value, str) and "nowhere" in value else value
    with pytest.raises(UserError):
        pipeline.train(_config(wrong))
    assert not _folder(settings).exists(), "no trace"
    pipeline.train(_config(settings))
    assert (_folder(settings) / "manifest.json").exists()


def test_a_start_killed_before_its_first_state_refuses_no_other_settings(settings: Settings) -> None:
    settings["schedule"] = {"unit": "steps", "length": 2}
    lock_settings(_folder(settings), _config(settings | {"seed": 1}), pipeline.NOT_HASHED)
    pipeline.train(_config(settings))
    with pytest.raises(UserError, match="holds output of other settings"):
        pipeline.train(_config(settings | {"seed": 1}))


def test_a_run_that_failed_later_keeps_what_it_has(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise UserError("the disk is full")

    monkeypatch.setattr("safa.training.loop.save_model", fail)
    with pytest.raises(UserError, match="disk is full"):
        pipeline.train(_config(settings | {"schedule": {"unit": "steps", "length": 6}}))
    assert list((_folder(settings) / "checkpoints").glob("step-*"))
    with pytest.raises(UserError, match="holds output of other settings"):
        pipeline.train(_config(settings | {"seed": 1}))


def test_a_start_from_nothing_is_refused_before_workers_are_asked_for(
    settings: Settings, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings |= {"stage": {"kind": "full", "init": str(tmp_path / "gone")}, "scale": {"num_workers": 2}}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(settings))
    assert pipeline.main(["--config", str(tmp_path / "job.yaml")]) == 2
    (said,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error")]
    assert said.startswith(f"error: stage.init: {tmp_path / 'gone'}: no model or checkpoint here.")
    assert not _folder(settings).exists()


@pytest.mark.parametrize("kind", ["head", "full"])
def test_the_saved_config_can_be_used_again(settings: Settings, kind: str) -> None:
    settings |= {"schedule": {"unit": "steps", "length": 3}, "stage": {"kind": "head"}}
    head = _config(settings | {"name": "first"})
    pipeline.train(head)
    if kind == "full":
        settings["stage"] = {"kind": "full", "init": str(head.folder)}
    config = _config(settings)
    pipeline.train(config)
    saved = config.folder / "config.yaml"
    assert load_settings(saved, TrainConfig) == config
    assert pipeline.main(["--config", str(saved)]) == 0, "already finished"
    assert pipeline.main(["--config", str(saved), "--set", "name=again"]) == 0
    assert _outcome(_folder(settings | {"name": "again"})) == _outcome(config.folder)


@pytest.mark.parametrize("name", ["demo.yaml", "smoke/demo.yaml"])
def test_the_saved_configs_of_the_demo_can_be_used_again(tmp_path: Path, name: str) -> None:
    demo = load_settings(ROOT / "configs" / name, DemoConfig, [f"run={tmp_path / 'demo'}"])
    for stage in (demo.pretrain, demo.train):
        lock_settings(stage.folder, stage, pipeline.NOT_HASHED)
        saved = load_settings(stage.folder / "config.yaml", TrainConfig)
        assert saved == stage
        lock_settings(saved.folder, saved, pipeline.NOT_HASHED)  # of the same folder, and not refused


# ---- Ray ---------------------------------------------------------------------------------------------------


@pytest.mark.ray
def test_two_workers_equal_one_with_the_double_batch(
    settings: Settings,
    tmp_path: Path,
    clip_row: Callable[..., Settings],
    write_clips: Callable[..., Path],
) -> None:
    """With one still clip all samples are alike, so that BatchNorm sees the same on either worker."""
    row = clip_row("ann", "train")
    row |= {name: [row[name][0]] * row["n_frames"] for name in ("frames", "landmarks")}
    settings["data"] |= {"clips": str(write_clips(tmp_path / "still", [row])), "min_identities": 1}
    settings["data"] |= {"jitter": dict.fromkeys(("brightness", "contrast", "saturation", "hue"), 0.0)}
    settings["model"]["head"]["dropout"] = 0.0
    still = {"equivariance_value": 0.0, "equivariance_jacobian": 0.0}  # the transform differs by worker
    settings |= {"stage": {"kind": "full", "losses": {"weights": still}}}
    settings |= {"schedule": {"unit": "steps", "length": 4}}

    double = settings | {"name": "one", "data": settings["data"] | {"batch_size": 4}}
    pipeline.train(_config(double))
    pipeline.train(_config(settings, num_workers=2, cpus_per_worker=0.5))
    (_, one), (_, two) = _outcome(_folder(double)), _outcome(_folder(settings))
    assert two[0] == pytest.approx(one[0], rel=1e-4)
    # Adam's first steps are signs of gradients: rounding alone moves the discriminator's terms by a per cent,
    # as it does between batches of 2 and 4 alike samples in one process.
    for row_one, row_two in zip(one, two, strict=True):
        assert row_two == pytest.approx(row_one, rel=3e-2, abs=1e-5)


def _ray_train_workers() -> list[int]:
    """Processes of Ray Train workers that descend from this process, and so from no one else's Ray."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True)
    rows = [line.split(maxsplit=2) for line in listed.stdout.splitlines()]
    parents = {int(pid): int(parent) for pid, parent, *_ in rows}

    def descends(pid: int) -> bool:
        while pid in parents and pid != os.getpid():
            pid = parents[pid]
        return pid == os.getpid()

    return [int(pid) for pid, _, *args in rows if "RayTrainWorker" in "".join(args) and descends(int(pid))]


@soak
@pytest.mark.ray
def test_on_ray_as_in_this_process_even_when_the_worker_is_lost(settings: Settings) -> None:
    straight = settings | {"name": "straight"}
    pipeline.train(_config(straight))

    def kill_after_the_first_state() -> None:
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            if list((_folder(settings) / "checkpoints").glob("step-*")):
                for worker in _ray_train_workers():
                    os.kill(worker, signal.SIGKILL)
                    killed.append(worker)
                return
            time.sleep(0.005)

    killed: list[int] = []
    killer = threading.Thread(target=kill_after_the_first_state)
    killer.start()
    pipeline.train(_config(settings, num_workers=1, cpus_per_worker=0.5, max_failures=1))
    killer.join()
    assert len(killed) == 1
    assert _outcome(_folder(settings)) == _outcome(_folder(straight))


def test_what_ray_is_asked_for(settings: Settings) -> None:
    fixed = pipeline.scaling(_config(settings, num_workers=4, cpus_per_worker=2.0).scale)
    assert (fixed.num_workers, fixed.resources_per_worker) == (4, {"CPU": 2.0})
    assert not fixed.elasticity_enabled
    elastic = pipeline.scaling(_config(settings, num_workers=4, min_workers=2, use_gpu=True).scale)
    assert (elastic.min_workers, elastic.max_workers) == (2, 4)
    assert elastic.resources_per_worker == {"CPU": 1.0, "GPU": 1.0}
    with pytest.raises(UserError, match="min_workers must not be above num_workers"):
        _config(settings, num_workers=2, min_workers=3)


@soak
@pytest.mark.ray
def test_elastic_run_starts_with_the_machines_that_are_there(settings: Settings) -> None:
    """Two workers are wished for and one has room: it takes the very steps of a run in this process."""
    settings["schedule"] = {"unit": "steps", "length": 5}
    straight = settings | {"name": "straight"}
    pipeline.train(_config(straight))
    pipeline.train(_config(settings, num_workers=2, min_workers=1, cpus_per_worker=1.5))
    assert _outcome(_folder(settings)) == _outcome(_folder(straight))


@soak
@pytest.mark.ray
def test_full_memory_of_one_worker_ends_the_run_in_one_line(settings: Settings) -> None:
    settings["model"]["head"]["encoder_input"] = 2048
    settings["data"] |= {"batch_size": 2048, "num_repeats": 2048}  # pictures of 100 GB
    with pytest.raises(UserError, match=r"this machine's memory is full .* Set data.batch_size to 1024 "):
        pipeline.train(_config(settings, num_workers=1, cpus_per_worker=0.5))


@pytest.mark.ray
def test_a_workers_user_error_is_one_line_and_not_tried_again(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "remove_start", lambda *_, **__: None)  # it counts the starts in there
    settings["model"]["head"]["encoder_weights"] = str(tmp_path / "nowhere.pth")
    with pytest.raises(UserError, match=r"nowhere\.pth") as error:
        pipeline.train(_config(settings, num_workers=1, cpus_per_worker=0.5, max_failures=3))
    assert "\n" not in str(error.value)
    assert len(list((_folder(settings) / "ray").iterdir())) == 1
