"""Models and frames to measure with: synthetic weights, the published sizes or the demo's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from parity_cases.fill import fill
from PIL import Image

from safa.checkpoint.native import ModelInfo, load_model, save_model
from safa.config import ModelConfig, load_settings
from safa.config.demo import DemoConfig
from safa.config.training import TrainConfig
from safa.data.video import write_video
from safa.head import load_head_assets
from safa.models.safa import Safa
from safa.visualize.images import RgbImage

ROOT = Path(__file__).parents[2]
CONFIGS = ("published", "demo", "tiny")  # tiny: the smoke test's
SEED = 1


def config_of(name: str) -> ModelConfig:
    """The sizes of the published model, of the demo's, or of the smoke test's."""
    if name == "published":
        return ModelConfig()
    if name == "demo":
        return load_settings(ROOT / "configs" / "demo.yaml", DemoConfig).model
    return load_settings(ROOT / "configs" / "smoke" / "train.yaml", TrainConfig).model


def make_checkpoint(folder: Path, name: str) -> Path:
    """A model with synthetic weights, which are the same everywhere."""
    config = config_of(name)
    torch.manual_seed(SEED)
    model = Safa(config, load_head_assets(config.head))
    for network in (model.kp_detector, model.tdmm, model.generator):
        fill(network, SEED)
    save_model(folder / "model", model, ModelInfo("full", config, 0, "benchmark"))
    return folder


def model_of(checkpoint: Path) -> Safa:
    """The model on the CPU, as it was trained."""
    return load_model(checkpoint)[0]


def frames_of(size: int, count: int) -> list[RgbImage]:
    """A smooth picture that moves: (size, size, 3) uint8 each."""
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.uniform(0, 255, (1, 3, 9, 9)))
    smooth = F.interpolate(coarse, (size, size), mode="bicubic")[0].permute(1, 2, 0).numpy()
    picture = smooth.clip(0, 255).astype(np.uint8)
    return [np.roll(picture, t % 16, 1) for t in range(count)]


def write_inputs(folder: Path, size: int, count: int) -> tuple[Path, Path]:
    """A photo and a video of that size."""
    frames = frames_of(size, 16)
    photo, video = folder / "photo.png", folder / "video.mp4"
    Image.fromarray(frames[0]).save(photo)
    write_video(video, (frames[t % 16] for t in range(count)), 25.0)
    return photo, video
