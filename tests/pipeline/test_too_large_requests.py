"""More CPUs or GPUs than the machine has: every program refuses that at its start, in one line.

The Ray of these tests has two CPUs and no GPU, and cannot grow.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from pipelines import annotate, evaluate, preprocess, train
from safa.checkpoint.native import ModelInfo, save_model
from safa.config import ModelConfig, parse_settings
from safa.head import load_head_assets
from safa.models.safa import Safa

pytestmark = [pytest.mark.ray]

PROGRAMS: dict[str, Callable[..., int]] = {
    "preprocess": preprocess.main,
    "train": train.main,
    "evaluate": evaluate.main,
    "annotate": annotate.main,
}
CASES = [
    ("preprocess", "stages.crop", {"cpus": 8}, "8 CPUs, 2 are"),
    ("preprocess", "stages.landmarks", {"cpus": 0.5, "actors": [8, 8]}, "4 CPUs, 2 are"),
    ("preprocess", "stages.landmarks", {"gpus": 0.25}, "0.25 GPUs, 0 are"),
    ("preprocess", "stages.face_tracks", {"gpus": 1}, "1 GPU, 0 are"),
    ("train", "scale", {"num_workers": 8, "cpus_per_worker": 1}, "8 CPUs, 2 are"),
    ("train", "scale", {"num_workers": 1, "use_gpu": True}, "1 GPU, 0 are"),
    ("evaluate", "scale", {"cpus_per_actor": 4}, "4 CPUs, 2 are"),
    ("evaluate", "scale", {"actors": [4, 8]}, "4 CPUs, 2 are"),
    ("evaluate", "scale", {"gpus_per_actor": 0.5}, "0.5 GPUs, 0 are"),
    ("annotate", "stage", {"cpus": 3}, "3 CPUs, 2 are"),
    ("annotate", "stage", {"gpus": 2}, "2 GPUs, 0 are"),
]


@pytest.fixture
def by_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A detector whose weights nobody looks at, since the run ends before: dlib would ask for no GPU."""
    monkeypatch.setattr(preprocess, "check_detector", lambda _: None)
    monkeypatch.setattr(preprocess, "check_source", lambda _: None)
    return {"name": "sfd", "weights": str(tmp_path)}


@pytest.fixture
def settings(tmp_path: Path, tiny_clips: Path, tiny_model: dict[str, Any]) -> Callable[..., dict[str, Any]]:
    """``settings(program, section)``: a program that would work if it did not ask for too much."""

    def make(program: str, section: str) -> dict[str, Any]:
        if program == "preprocess":
            (tmp_path / "videos").mkdir()
            (tmp_path / "videos" / "a.mp4").write_bytes(b"looked at by workers alone")
            kind = "videos" if section == "stages.face_tracks" else "clips"
            source = {"kind": kind, "folder": str(tmp_path / "videos")}
            network = {"landmarks": {"kind": "dlib"}} if section == "stages.landmarks" else {}
            return {"source": source, "out": str(tmp_path / "out"), **network}
        if program == "train":
            data = {"clips": str(tiny_clips), "batch_size": 2}
            rest = {"schedule": {"unit": "steps", "length": 2}, "checkpoint": {"every": 1}}
            return {"name": "run", "runs": str(tmp_path), "model": tiny_model, "data": data, **rest} | {
                "stage": {"kind": "head"}
            }
        if program == "evaluate":
            sizes = parse_settings({**tiny_model, "num_keypoints": 4}, ModelConfig, "test")
            torch.manual_seed(0)
            model = Safa(sizes, load_head_assets(sizes.head))
            save_model(tmp_path / "run" / "model", model, ModelInfo("full", sizes, 7, "test"))
            given = {"model": str(tmp_path / "run"), "clips": str(tiny_clips), "out": str(tmp_path / "out")}
            return {**given, "modes": ["reconstruction"]}
        return {"clips": str(tiny_clips), "name": "sharpness", "column": {"kind": "quality"}}

    return make


@pytest.mark.parametrize(("program", "section", "asked", "message"), CASES)
def test_it_is_refused_in_one_line(
    program: str,
    section: str,
    asked: dict[str, Any],
    message: str,
    settings: Callable[..., dict[str, Any]],
    by_network: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    values = settings(program, section)
    if "gpus" in asked and section == "stages.landmarks":
        values["landmarks"] = {"kind": "face_alignment", "detector": by_network, "weights": str(tmp_path)}
    elif section == "stages.face_tracks":
        values["source"]["detector"] = by_network
    *outer, inner = section.split(".")
    values |= {outer[0]: {inner: asked}} if outer else {inner: asked}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    assert PROGRAMS[program](["--config", str(tmp_path / "config.yaml")]) == 2
    (line,) = [each for each in capsys.readouterr().err.splitlines() if each.startswith("error: ")]
    assert line.startswith(f"error: {section}: ")
    assert f"asks for {message} in this machine. " in line
