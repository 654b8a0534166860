"""docs/export_scorer.py makes scorer files of other packages' networks."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from safa.config import parse_settings
from safa.config.inference import ScorerConfig
from safa.config.model import ModelConfig
from safa.evaluation.scorers import load_scorers
from safa.head.assets import HeadAssets
from safa.models.tdmm import Tdmm

SCRIPT = Path(__file__).parents[3] / "docs" / "export_scorer.py"
STRANGER = """
import torch
from torch import nn

class Embedder(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([2.0]))
    def forward(self, x):
        assert x.shape[-1] == 160
        return (self.weight * x).mean((2, 3))[:, :, None, None]

class Points(nn.Module):
    def forward(self, x):
        return x.flatten(1)[:, :136] * 0 + 0.25
"""


@pytest.fixture
def export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Sequence[str]], int]:
    (tmp_path / "stranger.py").write_text(STRANGER)
    monkeypatch.syspath_prepend(str(tmp_path))
    # Not by runpy: TorchScript keeps the module's name, which must be one.
    spec = importlib.util.spec_from_file_location("export_scorer", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "export_scorer", module)
    spec.loader.exec_module(module)
    main: Callable[[Sequence[str]], int] = module.main
    return main


@pytest.fixture
def tdmm(tiny_model: dict[str, Any], toy_head: HeadAssets) -> Tdmm:
    return Tdmm(parse_settings(tiny_model, ModelConfig, "test"), toy_head).eval()


def test_an_identity_network_of_another_package(
    export: Callable[[Sequence[str]], int], tdmm: Tdmm, tmp_path: Path
) -> None:
    torch.save({"weight": torch.tensor([3.0])}, tmp_path / "w.pth")
    out = tmp_path / "identity.pt"
    weights = ["--weights", str(tmp_path / "w.pth")]
    assert export(["stranger:Embedder", *weights, "--preset", "facenet", "-o", str(out)]) == 0
    identity = load_scorers(ScorerConfig(identity=out), tdmm).identity
    assert identity is not None
    for size in (32, 64):
        found = identity(torch.full((2, 3, size, size), 0.75))
        assert found.shape == (2, 3)
        torch.testing.assert_close(found, torch.full((2, 3), 3 * (0.75 * 255 - 127.5) / 128))


def test_landmarks_come_in_pixels_of_the_picture(
    export: Callable[[Sequence[str]], int], tdmm: Tdmm, tmp_path: Path
) -> None:
    for points, expected in (("unit", 0.25 * 32), ("px", 0.25 * 32 / 100)):
        out = tmp_path / f"{points}.pt"
        options = ["--kind", "landmarks", "--side", "100", "--points", points, "-o", str(out)]
        assert export(["stranger:Points", *options]) == 0
        landmarks = load_scorers(ScorerConfig(landmarks=out), tdmm).landmarks
        assert landmarks is not None
        torch.testing.assert_close(landmarks(torch.zeros(2, 3, 32, 32)), torch.full((2, 68, 2), expected))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere:Net"], "cannot be made"),
        (["stranger:torch"], "cannot be made"),
        (["stranger:Embedder"], "cannot be exported"),
        (["stranger:Embedder", "--side", "160", "--kind", "landmarks"], "cannot be exported"),
        (["stranger:Points", "--weights", "{here}/none.pth"], "no such file"),
    ],
)
def test_what_cannot_be_exported_is_one_line(
    export: Callable[[Sequence[str]], int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    arguments = [each.format(here=tmp_path) for each in arguments]
    assert export([*arguments, "-o", str(tmp_path / "out.pt")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert message in lines[0]
    assert not (tmp_path / "out.pt").exists()
