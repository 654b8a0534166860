"""A data set of a few clips and settings of a model that trains in a blink."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from safa.config import parse_settings
from safa.config.preprocess import EncodingConfig
from safa.config.training import TrainConfig
from safa.data.images import encode_image
from safa.data.schema import CLIP_SCHEMA
from safa.head.assets import HeadAssets

SIZE = 32
FRAMES = 6
GLASS = {"block_expansion": 4, "num_blocks": 2, "max_features": 8}
MODEL = {
    "image_size": SIZE,
    "num_keypoints": 2,
    "keypoints": {"hourglass": {**GLASS, "scale_factor": 0.5}},
    "head": {"encoder_width": 0.1, "uv_size": 16},
    "generator": {
        "block_expansion": 4,
        "max_features": 8,
        "num_bottleneck_blocks": 1,
        "dense_motion": {**GLASS, "scale_factor": 0.5},
    },
    "discriminator": {"scales": [1.0], "block_expansion": 4, "num_blocks": 2, "max_features": 8},
}


def clip_row(person: str, split: str, size: int = SIZE, *, faces: bool = True) -> dict[str, Any]:
    """A square that moves from left to right; landmarks on a circle inside it."""
    rng = np.random.default_rng(sum(person.encode()))
    colour = rng.integers(60, 255, 3)
    angle = np.linspace(0, 2 * np.pi, 68)
    frames, landmarks = [], []
    for t in range(FRAMES):
        frame = np.full((size, size, 3), 40, np.uint8)
        frame[size // 4 : 3 * size // 4, 4 + t : 20 + t] = colour
        frames.append(encode_image(frame, EncodingConfig(format="png")))
        points = np.stack([12 + t + 6 * np.cos(angle), size / 2 + 6 * np.sin(angle)], 1)
        landmarks.append(points if faces else np.full_like(points, np.nan))
    return {
        "clip_id": f"{person}#v#000000#{FRAMES:06d}",
        "person_id": person,
        "video_id": "v",
        "split": split,
        "start": 0,
        "end": FRAMES,
        "piece": 0,
        "n_frames": FRAMES,
        "fps": 25.0,
        "height": size,
        "width": size,
        "frames": frames,
        "landmarks": [points.astype(np.float32).ravel() for points in landmarks],
        "face_score": [float("nan")] * FRAMES,
        "bbox": [0, 0, size, size],
        "source": "test",
    }


def write_clips(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """One file per split, one row group per row."""
    for split in {row["split"] for row in rows}:
        table = pa.Table.from_pylist([row for row in rows if row["split"] == split], schema=CLIP_SCHEMA)
        (folder / f"split={split}").mkdir(parents=True)
        pq.write_table(table, folder / f"split={split}" / "part.parquet", row_group_size=1)
    return folder


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three people to train on, one held out."""
    rows = [clip_row(person, "train") for person in ("ann", "ben", "cat")] + [clip_row("dan", "test")]
    return write_clips(tmp_path_factory.mktemp("clips"), rows)


@pytest.fixture(scope="session")
def head_file(tmp_path_factory: pytest.TempPathFactory, toy_head: HeadAssets) -> Path:
    path = tmp_path_factory.mktemp("head") / "toy.npz"
    toy_head.save(path)
    return path


@pytest.fixture
def make_config(tmp_path: Path, clips: Path, head_file: Path) -> Callable[..., TrainConfig]:
    """``make_config("full", {"step.accumulate": 2}, length=4)``: settings with changes by dotted name."""

    def make(kind: str, changes: dict[str, Any] | None = None, *, length: int = 4) -> TrainConfig:
        data: dict[str, Any] = {
            "runs": str(tmp_path / "runs"),
            "name": kind,
            "model": copy.deepcopy(MODEL),
            "data": {"clips": str(clips), "batch_size": 2, "num_repeats": 2, "cache_mb": 1},
            "stage": {"kind": kind},
            "schedule": {"unit": "steps", "length": length},
            "checkpoint": {"every": 2},
            "validate_on": {"every": 2, "clips": 1, "frames": 2},
            "log_every": 1,
        }
        data["model"]["head"]["assets"] = str(head_file)
        for name, value in (changes or {}).items():
            *parents, leaf = name.split(".")
            node = data
            for parent in parents:
                node = node.setdefault(parent, {})
            node[leaf] = value
        return parse_settings(data, TrainConfig, "test")

    return make
