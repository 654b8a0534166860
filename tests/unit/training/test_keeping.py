"""Which states stay on disk, and that a crash while one is written costs no more than that one."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from safa.checkpoint import native
from safa.checkpoint.native import latest_state, read_state
from safa.config.training import TrainConfig
from safa.files import TEMPORARY
from safa.training import loop
from safa.training.checkpoint_writer import CheckpointError, CheckpointWriter
from safa.training.context import LocalContext
from safa.training.loop import fit
from safa.training.metrics_logger import read_metrics
from safa.weights import read_tensors

ROOT = Path(__file__).parents[3]
MakeConfig = Callable[..., TrainConfig]


def _kept(config: TrainConfig) -> list[int]:
    return sorted(int(path.name[5:]) for path in (config.folder / "checkpoints").glob("step-*"))


@pytest.fixture
def scores(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``scores(0.3, 0.1)`` sets the results of the next validations."""

    def prescribe(*values: float) -> None:
        rest = iter(values)
        monkeypatch.setattr(loop, "held_out_scores", lambda *_: {"landmark_nme": next(rest), "l1": 1.0})

    return prescribe


def test_best_states_stay_beside_the_newest(make_config: MakeConfig, scores: Callable[..., None]) -> None:
    scores(0.3, 0.1, 0.2, 0.4, 0.5)
    config = make_config("head", {"checkpoint.keep": 1, "checkpoint.keep_best": 2}, length=10)
    fit(config, LocalContext())
    assert _kept(config) == [4, 6, 10]
    best = json.loads((config.folder / "checkpoints" / "best.json").read_text())
    assert best["score"] == "landmark_nme"
    assert best["states"] == {"step-00000004": 0.1, "step-00000006": 0.2}


def test_a_best_score_between_two_states_is_a_state(
    make_config: MakeConfig, scores: Callable[..., None]
) -> None:
    scores(0.3, 0.1, 0.2, 0.4)
    changes = {"checkpoint": {"every": 100, "keep": 1, "keep_best": 1}}
    config = make_config("head", changes, length=8)
    fit(config, LocalContext())
    assert _kept(config) == [4, 8]


def test_best_of_a_resumed_run_is_the_best_of_both_parts(
    make_config: MakeConfig, scores: Callable[..., None]
) -> None:
    changes = {"checkpoint": {"every": 2, "keep": 1, "keep_best": 1}}
    scores(0.1, 0.3)
    fit(make_config("head", changes, length=4), LocalContext())
    scores(0.2, 0.4)
    config = make_config("head", changes, length=8)
    fit(config, LocalContext())
    assert _kept(config) == [2, 8]


def test_none_is_kept_for_its_score_unless_asked(
    make_config: MakeConfig, scores: Callable[..., None]
) -> None:
    scores(0.1, 0.3, 0.3)
    changes = {"checkpoint": {"every": 2, "keep": 1, "keep_best": 0}}
    config = make_config("head", changes, length=6)
    fit(config, LocalContext())
    assert _kept(config) == [6]
    assert not (config.folder / "checkpoints" / "best.json").exists()


DIES_WHILE_WRITING = """
import os, signal, sys
from pathlib import Path
from safa.checkpoint import native
from safa.config import load_settings
from safa.config.training import TrainConfig
from safa.training.context import LocalContext
from safa.training.loop import fit

write, states = native.write_tensors, set()

def die_in_the_second_state(path, tensors):
    states.add(path.parent)
    if len(states) == 2 and path.name == sys.argv[2]:
        path.write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
    write(path, tensors)

native.write_tensors = die_in_the_second_state
fit(load_settings(Path(sys.argv[1]), TrainConfig), LocalContext())
"""


@pytest.mark.slow
@pytest.mark.parametrize("file", ["networks.safetensors", "optimisers.safetensors"])
def test_killed_while_a_state_is_written(make_config: MakeConfig, tmp_path: Path, file: str) -> None:
    """The state before it is the newest one, is complete, and leads to the same end."""
    straight = make_config("head", {"name": "straight"}, length=6)
    fit(straight, LocalContext())
    killed = make_config("head", {"name": "killed"}, length=6)
    settings = tmp_path / "killed.yaml"
    settings.write_text(yaml.safe_dump(killed.model_dump(mode="json")))
    done = subprocess.run(
        [sys.executable, "-c", DIES_WHILE_WRITING, str(settings), file],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    states = killed.folder / "checkpoints"
    (partial,) = states.glob(f"{TEMPORARY}*/{file}")
    assert partial.read_bytes() == b"half"
    assert latest_state(states) == states / "step-00000002"
    assert read_state(states / "step-00000002").progress.step == 2

    fit(killed, LocalContext())
    assert not list(states.glob(".*")), "the half-written one is cleared away"
    ends = [read_tensors(c.folder / "model" / "weights.safetensors") for c in (straight, killed)]
    assert all((ends[0][name] == ends[1][name]).all() for name in ends[0])


def test_a_state_that_cannot_be_written_is_one_line(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread's error is raised in the loop, by the next save at the latest."""

    def fail(path: Path, tensors: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(native, "write_tensors", fail)
    config = make_config("head", {"validate_on": None}, length=6)
    with pytest.raises(CheckpointError, match=r"checkpoints: .*No space left on device") as error:
        fit(config, LocalContext())
    assert "\n" not in str(error.value)
    assert len(read_metrics(config.folder / "metrics.jsonl")) == 4, "found when the second state is due"
    assert not list((config.folder / "checkpoints").iterdir())


def test_training_changes_nothing_of_a_state_that_is_being_written(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two steps are taken before the first byte is written; the next save waits for this one."""
    at_once, later = make_config("full", {"name": "at-once"}), make_config("full", {"name": "later"})
    fit(at_once, LocalContext())
    write = native.write_tensors
    monkeypatch.setattr(native, "write_tensors", lambda *all: (time.sleep(0.5), write(*all)))
    fit(later, LocalContext())
    for state in ("step-00000002", "step-00000004"):
        states = [read_state(config.folder / "checkpoints" / state) for config in (at_once, later)]
        for part in ("networks", "moments"):
            torch.testing.assert_close(*(getattr(s, part) for s in states), rtol=0, atol=0)
        assert states[0].progress.samples == states[1].progress.samples


def test_the_writer_waits_for_the_state_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, release = native.write_tensors, threading.Event()
    monkeypatch.setattr(native, "write_tensors", lambda *all: (release.wait(10), write(*all)))
    network = torch.nn.Linear(2, 2)
    state = native.TrainState({"one": network}, {}, None)
    writer = CheckpointWriter(tmp_path, 5, "l1")
    info = native.ModelInfo("full", native.ModelConfig(), 1, "run")
    writer.save(state, native.Progress(1), info, {})
    before = network.weight.detach().clone()
    with torch.no_grad():
        network.weight.zero_()
    assert latest_state(tmp_path) is None
    threading.Timer(0.2, release.set).start()
    writer.save(state, native.Progress(2), info, {})
    assert writer.waited > 0.1
    writer.wait()
    assert torch.equal(read_state(tmp_path / "step-00000001").networks["one"]["weight"], before)
    assert not read_state(tmp_path / "step-00000002").networks["one"]["weight"].any()
