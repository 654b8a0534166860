"""``--check`` of every program: bad settings are refused, nothing is written, and Ray is not started."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import yaml

from pipelines import annotate, demo, evaluate, preprocess, train
from safa.checkpoint.native import ModelInfo, save_model
from safa.data.sources import COLUMNS
from safa.data.video import write_video
from safa.models.safa import Safa

ROOT = Path(__file__).parents[3]
Program = Callable[[list[str]], int]
Settings = dict[str, Any]


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    folder.mkdir()
    write_video(folder / "ann.mp4", (np.full((64, 64, 3), n, np.uint8) for n in range(30)), 25.0)
    np.save(folder / "ann.landmarks.npy", np.full((30, 68, 2), 32.0, np.float32))
    return folder


@pytest.fixture
def programs(
    tmp_path: Path, tiny_clips: Path, tiny_model: Settings, head_file: Path, model: Safa, videos: Path
) -> dict[str, tuple[Program, Settings, str, Settings]]:
    """Name -> its main, good settings, what it says of them, a change that makes them bad."""
    save_model(tmp_path / "model", model, ModelInfo("full", model.config, 7, "test"))
    out, clips, gone = str(tmp_path / "out"), str(tiny_clips), str(tmp_path / "gone")
    training = {
        "runs": out,
        "name": "run",
        "model": tiny_model | {"head": tiny_model["head"] | {"assets": str(head_file)}},
        "data": {"clips": clips, "batch_size": 2},
        "stage": {"kind": "full"},
        "schedule": {"unit": "steps", "length": 4},
        "checkpoint": {"every": 2},
    }
    source = {"kind": "clips", "folder": str(videos)}
    evaluation = {"model": str(tmp_path / "model"), "clips": clips, "splits": ["train"], "out": out}
    own = yaml.safe_load((ROOT / "configs" / "own_videos.yaml").read_text())
    own |= {"run": out, "videos": str(videos)}
    return {
        "preprocess": (
            *(preprocess.main, {"source": source, "out": out}, "1 clip listed, 0 more that cannot be used"),
            {"source": source | {"folder": gone}},
        ),
        "annotate": (
            *(annotate.main, {"clips": clips, "name": "q", "column": {"kind": "quality"}}),
            *("4 clips, 0 of them annotated", {"clips": gone}),
        ),
        "train": (
            *(train.main, training, "data set, run folder and stage 'full'"),
            {"stage": {"kind": "full", "init": gone}},
        ),
        "evaluate": (evaluate.main, evaluation, "for the model of step 7", {"model": gone}),
        "own videos": (demo.main, own, "1 video to look for faces in", {"videos": gone}),
    }


@pytest.mark.parametrize("name", ["preprocess", "annotate", "train", "evaluate", "own videos"])
def test_good_settings_pass_and_bad_ones_are_refused(
    name: str,
    programs: dict[str, tuple[Program, Settings, str, Settings]],
    tmp_path: Path,
    tiny_clips: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    program, settings, said, bad = programs[name]
    monkeypatch.setattr(ray, "init", lambda *_, **__: pytest.fail("Ray is started"))
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(settings))
    before = _files(tmp_path, tiny_clips)
    assert program(["--config", str(path), "--check"]) == 0
    seen = capfd.readouterr().err
    assert f"{said}. Nothing was written; machines were not asked for." in seen
    assert name == "annotate" or f"output will go into {tmp_path / 'out'}\n" in seen
    assert _files(tmp_path, tiny_clips) == before

    path.write_text(yaml.safe_dump(settings | bad))
    before = _files(tmp_path, tiny_clips)
    assert program(["--config", str(path), "--check"]) == 2
    assert str(tmp_path / "gone") in capfd.readouterr().err
    assert _files(tmp_path, tiny_clips) == before


def _files(*folders: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for folder in folders for path in folder.rglob("*")}


def test_a_job_is_checked_for_relative_outputs(
    programs: dict[str, tuple[Program, Settings, str, Settings]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("pipelines.shared_folder.job_id", lambda: "job")
    program, settings, _, _ = programs["train"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings | {"runs": "runs"}))
    assert program(["--config", str(tmp_path / "config.yaml"), "--check"]) == 2
    assert "'runs' is relative, and a job works in a folder that Ray deletes" in capfd.readouterr().err


def test_an_output_that_cannot_be_made_is_refused(
    programs: dict[str, tuple[Program, Settings, str, Settings]],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    program, settings, _, _ = programs["preprocess"]
    (tmp_path / "config.yaml").write_text(
        yaml.safe_dump(settings | {"out": str(tmp_path / "config.yaml" / "out")})
    )
    assert program(["--config", str(tmp_path / "config.yaml"), "--check"]) == 2
    assert "this user may not write there" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("names", "said"), [((), "not one of 2 listed videos is there"), (("a",), "1 of 2 videos")]
)
def test_listed_videos_are_looked_for(
    names: tuple[str, ...], said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "videos").mkdir()
    rows = [f"{name},0,75,10-10-90-90,25,128,96,train,someone" for name in ("a", "b")]
    (tmp_path / "list.csv").write_text("\n".join([",".join(COLUMNS), *rows]) + "\n")
    for name in names:
        (tmp_path / "videos" / f"{name}.webm").touch()
    source = {"kind": "metadata", "csv": str(tmp_path / "list.csv"), "videos": str(tmp_path / "videos")}
    settings = {"source": source, "out": str(tmp_path / "out")}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    assert preprocess.main(["--config", str(tmp_path / "config.yaml"), "--check"]) == (0 if names else 2)
    assert said in capfd.readouterr().err


@pytest.mark.parametrize("name", ["preprocess", "train", "evaluate", "own videos"])
def test_a_folder_of_other_settings_is_refused(
    name: str,
    programs: dict[str, tuple[Program, Settings, str, Settings]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The folder is looked at, where something is in it."""
    program, settings, _, _ = programs[name]
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(settings))
    asked: list[str] = []
    for module in (preprocess, train, evaluate):
        monkeypatch.setattr(module, "check_settings", lambda folder, *_: asked.append(str(folder)))
    monkeypatch.setattr(preprocess, "_is_worth_keeping", lambda config: True)
    monkeypatch.setattr(train, "_has_output", lambda folder: True)
    monkeypatch.setattr(demo, "check_chain", lambda run, stages: asked.append(str(run)))
    assert program(["--config", str(path), "--check"]) == 0
    assert asked[0] in (str(tmp_path / "out"), str(tmp_path / "out" / "run"))
