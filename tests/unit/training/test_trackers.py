"""MLflow and Weights & Biases follow a run, with the real packages; one that is down stops nothing."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from pipelines import evaluate
from pipelines import train as pipeline
from safa.config import parse_settings
from safa.config.tracking import MlflowConfig, TrackingConfig
from safa.config.training import TrainConfig
from safa.errors import UserError
from safa.training import trackers
from safa.training.context import LocalContext
from safa.training.loop import fit
from safa.training.metrics_logger import read_metrics
from safa.training.trackers import ID_FILE, Numbers, _Sender, missing_package

# MLflow's store uses what SQLAlchemy deprecates.
pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning")]


@pytest.fixture
def make_run(tmp_path: Path, tiny_clips: Path, tiny_model: dict[str, Any]) -> Callable[..., TrainConfig]:
    """``make_run(tracking, length)``: a run of as many steps, with a row of the log at each."""

    def make(tracking: dict[str, Any], length: int = 2) -> TrainConfig:
        settings = {
            **{"runs": str(tmp_path), "name": "run", "model": tiny_model, "log_every": 1},
            "tracking": tracking,
            "data": {"clips": str(tiny_clips), "batch_size": 2, "num_repeats": 2},
            "stage": {"kind": "head"},
            "schedule": {"unit": "steps", "length": length},
            "checkpoint": {"every": 1},
        }
        return parse_settings(settings, TrainConfig, "test")

    return make


@pytest.mark.slow
def test_mlflow_has_numbers_and_settings_and_a_resumed_run_continues_there(
    tmp_path: Path, make_run: Callable[..., TrainConfig]
) -> None:
    mlflow = pytest.importorskip("mlflow")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    for length in (2, 3):
        fit(make_run({"mlflow": {"uri": uri, "experiment": "faces"}}, length), LocalContext())
    client = mlflow.MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("faces").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "run"
    assert run.data.params["data.batch_size"] == "2"
    history = client.get_metric_history(run.info.run_id, "loss/landmark")
    assert [metric.step for metric in history] == [1, 2, 3]
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [metric.value for metric in history] == [row["losses"]["landmark"] for row in rows]


@pytest.mark.slow
def test_wandb_offline_continues_under_the_same_id(
    tmp_path: Path, make_run: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    for length in (1, 2):
        fit(make_run({"wandb": {"project": "faces"}}, length), LocalContext())
    files = sorted((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))
    assert len({file.name for file in files}) == 1
    assert b"loss/landmark" in b"".join(file.read_bytes() for file in files)


@pytest.fixture
def make_evaluation(tmp_path: Path) -> Callable[..., evaluate.EvaluationKey]:
    """``make_evaluation(tracking)``: settings of an evaluation into a folder of its own."""

    def make(tracking: dict[str, Any]) -> evaluate.EvaluationKey:
        settings = {"model": "m", "clips": "c", "out": str(tmp_path / "report"), "title": "held out"}
        hashes = {"model_sha256": "5af3", "clips_sha256": "c", "files_sha256": "f"}
        (tmp_path / "report").mkdir(exist_ok=True)
        return parse_settings({**settings, **hashes, "tracking": tracking}, evaluate.EvaluationKey, "test")

    return make


NUMBERS = {
    **{"psnr": 21.5, "psnr_copy_source": 18.0, "intervals": {"psnr": [21.0, 22.0]}},
    **{
        "animation": {"csim": 0.5},
        "counts": {"in": 3, "ok": 2, "quarantined": 1},
        "seconds": {"evaluate": 9},
    },
}


@pytest.mark.slow
def test_mlflow_has_the_numbers_of_an_evaluation_in_one_run_however_often_it_is_started(
    tmp_path: Path, make_evaluation: Callable[..., evaluate.EvaluationKey]
) -> None:
    mlflow = pytest.importorskip("mlflow")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    config = make_evaluation({"mlflow": {"uri": uri}})
    for _ in range(2):
        evaluate._send_to_trackers(config, 700, NUMBERS)
    client = mlflow.MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("safa").experiment_id])
    assert (run.info.status, run.info.run_name) == ("FINISHED", "held out")
    assert run.data.tags["safa.program"] == "evaluate"
    assert (run.data.params["model"], run.data.params["model_sha256"]) == ("m", "5af3")
    expected = {"reconstruction/psnr": 21.5, "reconstruction/psnr_low": 21.0, "animation/csim": 0.5}
    assert run.data.metrics.items() >= {**expected, "clips/ok": 2.0, "clips/quarantined": 1.0}.items()
    assert {each.step for each in client.get_metric_history(run.info.run_id, "animation/csim")} == {700}


@pytest.mark.slow
def test_wandb_offline_has_the_numbers_of_an_evaluation(
    tmp_path: Path, make_evaluation: Callable[..., evaluate.EvaluationKey], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    evaluate._send_to_trackers(make_evaluation({"wandb": {}}), 700, NUMBERS)
    (file,) = (tmp_path / "report" / "wandb").glob("offline-run-*/*.wandb")
    deadline = time.monotonic() + 20
    while b"reconstruction/psnr_low" not in file.read_bytes():  # another process writes it
        assert time.monotonic() < deadline, file.stat().st_size
        time.sleep(0.1)


@pytest.mark.slow
def test_a_server_that_is_down_stops_nothing(
    make_run: Callable[..., TrainConfig], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    config = make_run({"mlflow": {"uri": "http://127.0.0.1:1"}})
    with caplog.at_level(logging.WARNING, "safa"):
        assert fit(config, LocalContext()).step == 2
    lines = [record.getMessage() for record in caplog.records if "tracking" in record.getMessage()]
    assert len(lines) == 2
    assert "mlflow does not answer" in lines[0]
    assert "2 rows did not arrive" in lines[1]


class Flaky:
    """A tracker that fails the first times."""

    def __init__(self, failures: int) -> None:
        self.failures, self.steps = failures, list[int]()
        self.ended: bool | None = None

    def send(self, rows: Sequence[Numbers]) -> None:
        if self.failures:
            self.failures -= 1
            raise ConnectionError("down")
        self.steps += [row.step for row in rows]

    def end(self, *, finished: bool) -> None:
        self.ended = finished


def test_rows_wait_for_a_server_that_comes_back(caplog: pytest.LogCaptureFixture) -> None:
    flaky = Flaky(2)
    sender = _Sender("mlflow", flaky)
    for step in range(4):
        sender.put(Numbers(step, 0, {}))
        time.sleep(0.02)
    sender.close(finished=False)
    assert flaky.steps == [0, 1, 2, 3]
    assert flaky.ended is False
    assert sum("does not answer" in record.getMessage() for record in caplog.records) == 1


def test_no_more_than_so_many_rows_wait(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(trackers, "MOST_WAITING", 3)
    sender = _Sender("wandb", Flaky(1000))
    for step in range(10):
        sender.put(Numbers(step, 0, {}))
    sender.close(finished=True)
    assert "10 rows did not arrive" in caplog.records[-1].getMessage()


def test_a_service_that_hangs_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "CLOSE_WITHIN", 0.2)

    class Hangs(Flaky):
        def send(self, rows: Sequence[Numbers]) -> None:
            time.sleep(3)

    sender = _Sender("mlflow", Hangs(0))
    began = time.monotonic()
    sender.put(Numbers(0, 0, {}))
    sender.close(finished=True)
    assert time.monotonic() - began < 2


@pytest.mark.parametrize(("name", "settings"), [("mlflow", {"uri": "http://x"}), ("wandb", {})])
def test_a_missing_package_is_one_line_that_names_the_extra(
    name: str, settings: dict[str, Any], make_run: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers, "PACKAGES", {name: ("a_package_that_nobody_has",)})
    config = make_run({name: settings})
    with pytest.raises(UserError, match=rf"tracking.{name}: {name} is not installed. .*\[{name}\]"):
        pipeline.train(config)
    assert not config.folder.exists() or not any(config.folder.iterdir())  # type: ignore[union-attr]


def test_without_tracking_no_package_is_asked_for() -> None:
    assert missing_package(TrackingConfig()) == ""
    code = "import safa.training.trackers, sys; print([m for m in ('mlflow', 'wandb') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("uri", "fix"),
    [
        ("mlruns", "must be http://SERVER"),
        ("file:///tmp/mlruns", "must be http://SERVER"),
        ("sqlite:///here.db", "ABSOLUTE"),
        ("https://me:secret@server", "MLFLOW_TRACKING_USERNAME"),
    ],
)
def test_addresses_that_cannot_work_are_refused(uri: str, fix: str) -> None:
    with pytest.raises(UserError, match=fix):
        parse_settings({"uri": uri}, MlflowConfig, "test")


def test_the_id_stays(tmp_path: Path) -> None:
    first = trackers.tracked_id(tmp_path)
    assert trackers.tracked_id(tmp_path) == first
    (tmp_path / ID_FILE).write_text("{")
    with pytest.raises(UserError, match=ID_FILE):
        trackers.tracked_id(tmp_path)
