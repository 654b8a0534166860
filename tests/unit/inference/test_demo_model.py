"""The model in the box: small, complete, in the package, and taken where nothing was trained."""

from __future__ import annotations

import tomllib
from pathlib import Path

import torch

from safa.checkpoint.native import load_model
from safa.inference.model_choice import IN_THE_BOX, default_model

MOST = 10 * 10**6  # bytes
PROJECT = Path(__file__).parents[3] / "pyproject.toml"


def test_it_is_small_and_says_what_it_is() -> None:
    assert {file.name for file in IN_THE_BOX.iterdir()} == {"README.md", "model.json", "weights.safetensors"}
    assert sum(file.stat().st_size for file in IN_THE_BOX.iterdir()) < MOST
    text = (IN_THE_BOX / "README.md").read_text()
    assert "Apache-2.0" in text
    assert "synthetic" in text
    packaged = tomllib.loads(PROJECT.read_text())["tool"]["setuptools"]["package-data"]["safa"]
    assert "demo_model/*" in packaged


def test_it_has_learned_something() -> None:
    """Weights that load, and a picture that comes back where nothing moves."""
    model, info = load_model(IN_THE_BOX)
    assert (info.stage, info.trained_on, info.config.image_size) == ("full", "synthetic", 64)
    assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())
    generated = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        state = model.analyse(generated)
        prediction = model.reenact(model.prepare_source(generated), state).prediction
    assert prediction.shape == (1, 3, 64, 64)
    # What is shown unmoved comes back: a model that never learned anything makes grey.
    assert (prediction - generated).abs().mean() < 0.1


def test_it_is_taken_where_nothing_was_trained(tmp_path: Path) -> None:
    assert default_model(tmp_path) == IN_THE_BOX
