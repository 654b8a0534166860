"""The drawing of the graphs in docs/architecture.md is that of the code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines import evaluate, preprocess
from pipelines.operators import drawn
from safa.config import parse_settings
from safa.config.inference import EvaluateConfig
from safa.config.preprocess import PreprocessConfig

ROOT = Path(__file__).parents[2]
DETECTOR = {"name": "sfd", "weights": "sfd.pth"}
NETWORK = {"kind": "face_alignment", "detector": DETECTOR, "weights": "fan.zip"}
CLIPS = {"kind": "clips", "folder": "clips"}
WEB = {"kind": "metadata", "csv": "x.csv", "videos": "videos", "download": {"kind": "yt_dlp"}}
ON_GPUS = {"landmarks": {"gpus": 0.25}}


def preprocess_graph(**settings: Any) -> str:
    config = parse_settings({"out": "out", "source": CLIPS, **settings}, PreprocessConfig, "test")
    return drawn(preprocess.operators(config))


def evaluate_graph(gpus: float) -> str:
    settings = {"model": "m", "clips": "c", "out": "o", "scale": {"gpus_per_actor": gpus}}
    return drawn(evaluate.operators(parse_settings(settings, EvaluateConfig, "test")))


GRAPHS = {
    "preprocess, sidecars": lambda: preprocess_graph(),
    "preprocess, networks on CPUs": lambda: preprocess_graph(landmarks=NETWORK),
    "preprocess, networks on GPUs": lambda: preprocess_graph(source=WEB, landmarks=NETWORK, stages=ON_GPUS),
    "evaluate, without GPUs": lambda: evaluate_graph(0.0),
    "evaluate, with GPUs": lambda: evaluate_graph(0.5),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_the_drawing_is_that_of_the_code(name: str) -> None:
    line = f"{name + ':':<36}{GRAPHS[name]()}"
    assert line in (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").splitlines()
