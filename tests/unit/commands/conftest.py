"""The command, a tiny model in the released layout, and inputs for both."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

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

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def safa(capsys: pytest.CaptureFixture[str]) -> Run:
    """``safa("checkpoint", "inspect", path)``: exit code, standard output, standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture
def released(tiny_model: dict[str, Any], toy_head: HeadAssets, tmp_path: Path) -> Path:
    """A checkpoint in the released layout, and ``model.yaml`` with its sizes beside it."""
    torch.manual_seed(0)
    tiny_model["num_keypoints"] = 4  # two span no area, which --adapt-scale needs
    config = parse_settings(tiny_model, ModelConfig, "test")
    model = Safa(config, toy_head)
    networks = {
        "generator": model.generator,
        "kp_detector": model.kp_detector,
        "discriminator": MultiScaleDiscriminator(config),
        "tdmm": model.tdmm,
    }
    path = tmp_path / "released.pth.tar"
    torch.save({name: network.state_dict() for name, network in networks.items()} | {"epoch": 50}, path)
    (tmp_path / "model.yaml").write_text(yaml.safe_dump({"model": tiny_model}))
    return path


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
def model(safa: Run, released: Path) -> Path:
    """The same checkpoint, converted."""
    folder = released.with_name("model")
    done = safa("checkpoint", "convert", released, "-o", folder, "--config", released.with_name("model.yaml"))
    assert done[0] == 0, done
    return folder
