"""Evaluation on a real Ray: every clip ends as a result or a reason; a second run does what is missing."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from ray import cloudpickle
from torch import Tensor, nn

from pipelines import evaluate
from pipelines.lease import exclusive
from pipelines.operators import Operator
from pipelines.shared_folder import Probe
from pipelines.window_stages import MODEL, NETWORKS, READ, SCORE, WRITE, Item, WindowRunner
from safa.checkpoint.native import ModelInfo, save_model
from safa.config import ModelConfig, dump_settings, load_settings, parse_settings
from safa.config.inference import EvaluateConfig
from safa.errors import Failure, FailureCode, UserError
from safa.evaluation.clip_files import VIDEO
from safa.evaluation.windows import Window
from safa.head import load_head_assets
from safa.models.face_parser import FaceParser
from safa.models.safa import Safa
from tests.conftest import MODEL as MODEL_SIZES

pytestmark = [pytest.mark.slow, pytest.mark.ray]

THREE_MODES: dict[str, Any] = {"modes": ["reconstruction", "animation", "mesh"], "report": {"videos": 5}}
Row = Callable[..., dict[str, Any]]
Write = Callable[..., Path]


def _save_model(folder: Path, sizes: dict[str, Any], seed: int = 0) -> Path:
    torch.manual_seed(seed)
    config = parse_settings({**sizes, "num_keypoints": 4}, ModelConfig, "test")
    model = Safa(config, load_head_assets(config.head))
    nn.init.normal_(model.tdmm.encoder.fc.weight, std=0.02)
    save_model(folder / "model", model, ModelInfo("full", config, 7, "test"))
    return folder


def _settings(folder: Path, tiny_clips: Path, out: str = "out", **changes: Any) -> EvaluateConfig:
    """An evaluation of the tiny clips, 3 train and 1 test, by one actor: a second costs seconds to start."""
    data = {
        "model": str(folder / "run"),
        "clips": str(tiny_clips),
        "splits": ["train", "test"],
        "out": str(folder / out),
        "animation": {"pairs": 2},
        "visuals": {"panel": 32, "strip_frames": 2},
        "scale": {"cpus_per_actor": 0.5, "actors": [1, 1]},
    }
    return parse_settings(data | changes, EvaluateConfig, "test")


@pytest.fixture
def make(tmp_path: Path, tiny_model: dict[str, Any], tiny_clips: Path) -> Callable[..., EvaluateConfig]:
    """``make(out="x", ...)``: settings of an evaluation."""
    _save_model(tmp_path / "run", tiny_model)
    return partial(_settings, tmp_path, tiny_clips)


@dataclass(frozen=True)
class Evaluated:
    """A finished evaluation, for tests that look at it, or leave it as they found it."""

    config: EvaluateConfig
    numbers: dict[str, Any]


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory, tiny_clips: Path) -> Evaluated:
    """Of three modes; five of the ten clips have a video."""
    folder = tmp_path_factory.mktemp("evaluated")
    _save_model(folder / "run", MODEL_SIZES)
    config = _settings(folder, tiny_clips, **THREE_MODES)
    return Evaluated(config, evaluate.evaluate(config, {"train": 12.0}))


def _times(out: Path) -> dict[str, int]:
    """When the video of each clip that has one was written, by the clip's folder."""
    clips = out / "clips"
    return {str(path.parent.relative_to(clips)): path.stat().st_mtime_ns for path in clips.rglob(VIDEO)}


def test_every_clip_is_evaluated_and_reported(evaluated: Evaluated) -> None:
    config, numbers = evaluated.config, evaluated.numbers
    assert numbers["counts"] == {"in": 10, "ok": 10, "quarantined": 0}
    assert json.loads((config.out / "metrics.json").read_text()) == numbers
    for metric in ("psnr", "ssim", "l1", "landmark_nme"):
        assert {metric, f"{metric}_copy_source"} <= set(numbers)
    assert numbers["seconds"]["train"] == 12.0
    assert numbers["seconds"]["evaluate"] > 0
    assert pq.read_table(config.out / "frames").num_rows == 4 * 6
    page = (config.out / "index.html").read_text()
    assert page.count("<video") == 1 + 5  # the page opens with one of them
    assert all(f"{name}/video.mp4" in page for name in _times(config.out))


def test_a_second_evaluation_into_the_folder_is_refused(make: Callable[..., EvaluateConfig]) -> None:
    config = make()
    with exclusive(config.out), pytest.raises(UserError, match="another program is at work here"):
        evaluate.evaluate(config, {})
    assert not config.out.exists()


def test_swaps_and_meshes_go_through_and_two_reports_compare(
    make: Callable[..., EvaluateConfig], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    torch.save(FaceParser().state_dict(), tmp_path / "parser.pth")
    (tmp_path / "pairs.csv").write_text("source,driving\nann#v#000000#000006,ben#v#000000#000006\n")
    changes: dict[str, Any] = {
        "modes": ["reconstruction", "swap", "mesh"],
        "splits": ["train"],
        "frames": 3,
        "swap": {"weights": str(tmp_path / "parser.pth")},
        "animation": {"csv": str(tmp_path / "pairs.csv")},
        "mesh": {"export": ["obj"]},
        "scorers": {"landmarks": "model"},
    }
    config = make(**changes)
    numbers = evaluate.evaluate(config, {})
    assert numbers["counts"] == {"in": 7, "ok": 7, "quarantined": 0}
    assert {"akd", "detection_rate", "flicker"} <= set(numbers)
    assert numbers["skipped"]["lpips"] == "skipped: no weights are named (scorers.lpips)"
    low, high = numbers["intervals"]["psnr"]
    assert low <= numbers["psnr"] <= high
    assert (config.out / "clips/swap/ann~v~000000~000006~~ben~v~000000~000006/video.mp4").exists()
    assert len(list((config.out / "clips" / "mesh").glob("*/frame*.obj"))) == 3
    other = make("other", modes=["reconstruction"], splits=["train"], frames=3)
    evaluate.evaluate(other, {})
    assert evaluate.main(["--compare", str(config.out), str(other.out), "--out", str(tmp_path / "both")]) == 0
    compared = json.loads((tmp_path / "both" / "compare.json").read_text())["metrics"]["reconstruction"]
    assert compared["psnr"]["clips"] == 3
    assert compared["psnr"]["runs"][1]["difference"] == pytest.approx(0, abs=1e-9)
    assert "akd" not in compared  # one of the runs has none


def test_a_second_run_does_what_is_missing(evaluated: Evaluated) -> None:
    config, first = evaluated.config, evaluated.numbers
    before = _times(config.out)
    name = min(name for name in before if name.startswith("reconstruction"))
    lost = config.out / "clips" / name
    shutil.rmtree(lost)
    (lost.parent / ".tmp-half").mkdir()  # as a killed run leaves it
    second = evaluate.evaluate(config, {})
    after = _times(config.out)
    assert [each for each in after if after[each] != before.get(each)] == [name]
    assert not (lost.parent / ".tmp-half").exists()
    assert {key: second[key] for key in ("psnr", "l1")} == {key: first[key] for key in ("psnr", "l1")}


def assert_same_numbers(one: dict[str, Any], other: dict[str, Any], count: int) -> None:
    keys = [key for key, value in one.items() if isinstance(value, float)]
    assert len(keys) == count
    assert {key: other[key] for key in keys} == pytest.approx({key: one[key] for key in keys}, abs=1e-5)


def test_numbers_do_not_depend_on_actors_batches_and_windows(
    make: Callable[..., EvaluateConfig], evaluated: Evaluated
) -> None:
    one = evaluated.numbers
    scale = {"actors": [2, 2], "cpus_per_actor": 0.5, "batch_size": 1, "window": 4}
    config = make(scale=scale, **THREE_MODES)
    two = evaluate.evaluate(config, {})
    assert_same_numbers(one, two, 10)
    assert sorted(_times(config.out)) == sorted(_times(evaluated.config.out))
    assert len(list(config.out.glob("clips/*/*/video.mp4"))) == 5  # of ten clips
    assert len(list(config.out.glob("clips/mesh/*/mesh.parquet"))) == 4
    assert not list((config.out / "segments").rglob("*.mp4"))
    before = _times(config.out)
    shorter = {"actors": [1, 1], "cpus_per_actor": 0.5, "window": 2}  # the windows of before do not count
    assert_same_numbers(one, evaluate.evaluate(make(scale=shorter, **THREE_MODES), {}), 10)
    assert pq.read_table(config.out / "frames").num_rows == 4 * 6
    assert before.keys() == _times(config.out).keys()


@pytest.mark.soak
def test_stages_in_processes_of_their_own_give_the_same(
    make: Callable[..., EvaluateConfig], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    torch.jit.script(Means()).save(str(tmp_path / "means.pt"))  # type: ignore[no-untyped-call]
    changes: dict[str, Any] = {
        "modes": ["reconstruction", "animation", "swap", "mesh"],
        "scorers": {"identity": str(tmp_path / "means.pt"), "inception": str(tmp_path / "pool.pt")},
        "scale": {"cpus_per_actor": 0.4, "window": 4},
    }
    torch.jit.script(Pool()).save(str(tmp_path / "pool.pt"))  # type: ignore[no-untyped-call]
    together = evaluate.evaluate(make("together", **changes), {})
    monkeypatch.setattr(evaluate, "operators", lambda config: split_graph(0.4))
    config = make("split", **changes)
    split = evaluate.evaluate(config, {})
    assert {"csim", "fid"} <= set(together)
    assert_same_numbers(together, split, 16)
    assert split["counts"] == together["counts"] == {"in": 12, "ok": 12, "quarantined": 0}
    assert len(list(config.out.glob("clips/*/*/video.mp4"))) == 12


def split_graph(cpus: float) -> list[Operator]:
    """The graph of machines with GPUs, on CPUs."""
    return [
        Operator((READ,), "scale", cpus),
        Operator((MODEL, NETWORKS), "scale", cpus, actors=(1, 1)),
        Operator((SCORE,), "scale", cpus),
        Operator((WRITE,), "scale", cpus, rows=16),
    ]


class Means(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return image.mean(dim=(2, 3))


class Pool(nn.Module):
    def forward(self, image: Tensor, return_features: bool = False) -> Tensor:
        return image.float().mean(dim=(2, 3))


@pytest.mark.parametrize(
    ("cpus", "gpus"),
    [
        (1, 1),
        *(
            pytest.param(*machine, marks=pytest.mark.soak)
            for machine in ((1, 0), (2, 0), (4, 0), (2, 1), (4, 2))
        ),
    ],
)
def test_the_graph_fits_any_machine(
    make: Callable[..., EvaluateConfig], tmp_path: Path, cpus: int, gpus: int
) -> None:
    share = 0.5 if gpus else 0.0
    config = make(modes=["reconstruction"], scale={"actors": [1, 4], "gpus_per_actor": share, "window": 4})
    (tmp_path / "config.yaml").write_text(dump_settings(config))
    script = Path(__file__).with_name("evaluation_on_machine.py")
    done = subprocess.run(
        [sys.executable, str(script), str(cpus), str(gpus), str(tmp_path / "config.yaml")],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "PYTHONPATH": str(script.parents[2]), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    line = json.loads(done.stdout.splitlines()[-1])
    assert line["counts"] == {"in": 4, "ok": 4, "quarantined": 0}
    assert line["operators"] == (4 if gpus else 1)
    overloaded = os.getloadavg()[0] > 2 * (os.cpu_count() or 1)  # by other programs
    assert line["seconds"] < 60 or overloaded


def test_a_poisoned_clip_is_a_row_with_a_reason(
    make: Callable[..., EvaluateConfig],
    clip_row: Row,
    write_clips: Write,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counted: list[tuple[Any, ...]] = []  # for those who watch the cluster
    monkeypatch.setattr(evaluate, "clip_finished", lambda *outcome: counted.append(outcome))
    monkeypatch.setattr(evaluate, "frames_made", lambda *frames: counted.append(frames))
    bad = clip_row("eve", "test")
    bad["frames"][3] = b"no picture"
    clips = write_clips(tmp_path / "clips", [clip_row("dan", "test"), bad])
    config = make(clips=str(clips), splits=["test"], modes=["reconstruction"])
    assert evaluate.evaluate(config, {})["counts"] == {"in": 2, "ok": 1, "quarantined": 1}
    rows = pq.read_table(config.out / "quarantine" / "failures.parquet").to_pylist()
    assert [(row["id"], row["code"]) for row in rows] == [("eve#v#000000#000006", FailureCode.DECODE)]
    assert "frame 3: not a readable picture" in (config.out / "index.html").read_text()
    assert sorted(counted, key=str) == [("evaluate", ""), ("evaluate", 6), ("evaluate", FailureCode.DECODE)]


class DeadlyRunner(WindowRunner):
    """A worker that dies, as for want of memory: always at one clip, and once in the middle of another."""

    def _do(self, name: str, made: Any) -> Any:
        if name == READ and made.job.driving.startswith("ben#"):
            os._exit(1)
        mark = Path(self._config.out) / "killed once"
        if name == SCORE and made.window.job.driving.startswith("cat#") and not mark.exists():
            mark.touch()
            half = Path(self._config.out) / "clips" / "reconstruction" / ".tmp-half"  # half a clip
            half.mkdir(parents=True)
            os.kill(os.getpid(), signal.SIGKILL)
        return super()._do(name, made)


def test_a_worker_killed_in_the_middle_costs_time_and_a_clip_that_always_kills_its_place(
    make: Callable[..., EvaluateConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    monkeypatch.setattr(evaluate, "WindowRunner", DeadlyRunner)
    config = make(modes=["reconstruction"], frames=2, max_unexpected=0.3)
    assert evaluate.evaluate(config, {})["counts"] == {"in": 4, "ok": 3, "quarantined": 1}
    (row,) = pq.read_table(config.out / "quarantine" / "failures.parquet").to_pylist()
    assert (row["id"].split("#")[0], row["detail"]) == ("ben", "2 workers died at this input alone")
    assert (config.out / "killed once").exists()
    assert len(_times(config.out)) == 3


def _fail_all(code: FailureCode) -> Callable[..., Iterator[Item]]:
    def process(_: EvaluateConfig, windows: Sequence[Window], probe: Probe) -> Iterator[Item]:
        for window in windows:
            failure = Failure(window.job.title, code, "out of luck", f"evaluate/{window.job.mode}")
            yield Item(window, failure=failure)

    return process


def test_too_many_unexpected_failures_fail_the_run(
    make: Callable[..., EvaluateConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make(modes=["reconstruction"])
    monkeypatch.setattr(evaluate, "process", _fail_all(FailureCode.UNEXPECTED))
    with pytest.raises(UserError, match="4 of 4 clips failed unexpectedly"):
        evaluate.evaluate(config, {})
    assert "out of luck" in (config.out / "index.html").read_text()


def test_an_evaluation_without_any_result_fails_and_reports_why(
    make: Callable[..., EvaluateConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make(modes=["reconstruction", "mesh"])
    monkeypatch.setattr(evaluate, "process", _fail_all(FailureCode.NO_FACE))
    with pytest.raises(UserError, match="not one of 8 clips could be used"):
        evaluate.evaluate(config, {})
    assert "out of luck" in (config.out / "index.html").read_text()


def test_results_that_are_not_there_are_no_report(
    make: Callable[..., EvaluateConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a cluster whose machines write into folders of their own."""
    config = make(modes=["reconstruction"])
    monkeypatch.setattr(evaluate, "process", lambda _, windows, probe: map(Item, windows))
    with pytest.raises(UserError, match="4 of 4 clips were neither made nor refused"):
        evaluate.evaluate(config, {})
    assert not (config.out / "index.html").exists()
    monkeypatch.undo()
    other = config.model_copy(update={"frames": 2, "modes": ("mesh",)})  # the failed start is not in the way
    monkeypatch.setattr(evaluate, "process", _fail_all(FailureCode.UNEXPECTED))
    with pytest.raises(UserError, match="4 of 4 clips failed unexpectedly"):
        evaluate.evaluate(other, {})
    assert load_settings(config.out / "config.yaml", EvaluateConfig) == other


def test_a_training_that_is_not_there_costs_its_curves_alone(
    make: Callable[..., EvaluateConfig], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    there = tmp_path / "there"
    there.mkdir()
    shutil.copy(Path(__file__).parents[2] / "configs" / "smoke" / "pretrain.yaml", there / "config.yaml")
    (there / "metrics.jsonl").write_text("")
    with caplog.at_level(logging.WARNING):
        (found,) = evaluate._training_runs((tmp_path / "gone", there))
    assert found.name == "pretrain"
    assert f"history: no training run at {tmp_path / 'gone'}; the report goes without it" in caplog.text


def test_what_cannot_work_is_reported_before_anything_starts(
    make: Callable[..., EvaluateConfig], clip_row: Row, write_clips: Write, tmp_path: Path
) -> None:
    large = write_clips(tmp_path / "large", [clip_row("dan", "test", 64)])
    with pytest.raises(
        UserError, match=r"the clips are 64 x 64 px, and the model needs 32 x 32\. Preprocess"
    ):
        evaluate.evaluate(make(clips=str(large), splits=["test"]), {})
    with pytest.raises(UserError, match="no clips of split train"):
        evaluate.evaluate(make(clips=str(large), splits=["train"]), {})
    with pytest.raises(UserError, match="no model or checkpoint"):
        evaluate.evaluate(make(model=str(tmp_path / "large")), {})
    with pytest.raises(UserError, match=r"no\.pth: no such file or folder"):
        evaluate.evaluate(make(modes=["swap"], swap={"weights": str(tmp_path / "no.pth")}), {})
    with pytest.raises(UserError, match="no such file"):
        evaluate.evaluate(make(scorers={"identity": str(tmp_path / "no.pt")}), {})
    with pytest.raises(UserError, match="no table of evaluated clips"):
        evaluate.compare([tmp_path, tmp_path], tmp_path / "both")
    assert not (tmp_path / "out").exists()


def test_another_model_at_the_same_place_is_another_evaluation(evaluated: Evaluated) -> None:
    folder = evaluated.config.out.with_name("run")
    _save_model(folder, MODEL_SIZES, seed=1)
    with pytest.raises(UserError, match=r"holds output of other settings \(model_sha256: "):
        evaluate.evaluate(evaluated.config, {})
    _save_model(folder, MODEL_SIZES)
