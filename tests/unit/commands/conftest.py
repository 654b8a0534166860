"""The command, a tiny model in the released layout, and inputs for both."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from safa.cli import main
from safa.config import ModelConfig, parse_settings
from safa.data.video import write_video
from safa.head.assets import HeadAssets
from safa.models.discriminator import MultiScaleDiscriminator
from safa.models.safa import Safa
from tests.conftest import MODEL

Run = Callable[..., tuple[int, str, str]]
SIZES = MODEL | {"num_keypoints": 4}  # two span no area, which --adapt-scale needs


@pytest.fixture
def safa(capsys: pytest.CaptureFixture[str]) -> Run:
    """``safa("checkpoint", "inspect", path)``: exit code, standard output, standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture(scope="session")
def made_models(toy_head: HeadAssets, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in the released layout, ``model.yaml`` with its sizes, and ``model``, converted.

    Made once, since that takes a second; each test gets copies.
    """
    torch.manual_seed(0)
    config = parse_settings(SIZES, ModelConfig, "test")
    model = Safa(config, toy_head)
    networks = {
        "generator": model.generator,
        "kp_detector": model.kp_detector,
        "discriminator": MultiScaleDiscriminator(config),
        "tdmm": model.tdmm,
    }
    folder = tmp_path_factory.mktemp("models")
    path = folder / "released.pth.tar"
    torch.save({name: network.state_dict() for name, network in networks.items()} | {"epoch": 50}, path)
    (folder / "model.yaml").write_text(yaml.safe_dump({"model": SIZES}))
    words = ["checkpoint", "convert", path, "-o", folder / "model", "--config", folder / "model.yaml"]
    assert main([str(word) for word in words]) == 0
    return folder


@pytest.fixture
def released(made_models: Path, tmp_path: Path) -> Path:
    """A checkpoint in the released layout, and ``model.yaml`` with its sizes beside it."""
    shutil.copyfile(made_models / "model.yaml", tmp_path / "model.yaml")
    return Path(shutil.copyfile(made_models / "released.pth.tar", tmp_path / "released.pth.tar"))


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8)).save(path)
    return path


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "driving.mp4"
    frames = np.random.default_rng(1).integers(0, 255, (7, 48, 64, 3), np.uint8)
    write_video(path, iter(frames), fps=12.5)
    return path


@pytest.fixture
def model(made_models: Path, tmp_path: Path) -> Path:
    """The same checkpoint, converted."""
    return Path(shutil.copytree(made_models / "model", tmp_path / "model"))
