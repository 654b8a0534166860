"""A data set of a few clips and the sizes of a model that trains in a blink."""

from __future__ import annotations

import copy
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from safa.config.preprocess import EncodingConfig
from safa.data.images import encode_image
from safa.data.schema import CLIP_SCHEMA

SIZE = 32  # px
FRAMES = 6  # of each clip
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


def _clip_row(person: str, split: str, size: int = SIZE, *, faces: bool = True) -> dict[str, Any]:
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


def _write_clips(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """One file per split, one row group per row."""
    for split in {row["split"] for row in rows}:
        table = pa.Table.from_pylist([row for row in rows if row["split"] == split], schema=CLIP_SCHEMA)
        (folder / f"split={split}").mkdir(parents=True)
        pq.write_table(table, folder / f"split={split}" / "part.parquet", row_group_size=1)
    return folder


@pytest.fixture(scope="session")
def clip_row() -> Callable[..., dict[str, Any]]:
    """``clip_row(person, split, size=32, faces=True)``: a row of ``CLIP_SCHEMA``."""
    return _clip_row


@pytest.fixture(scope="session")
def write_clips() -> Callable[..., Path]:
    """``write_clips(folder, rows)``: the rows as ``pipelines/preprocess`` would store them."""
    return _write_clips


@pytest.fixture(scope="session")
def tiny_clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of three people to train on and one held out, 32 px."""
    rows = [_clip_row(person, "train") for person in ("ann", "ben", "cat")] + [_clip_row("dan", "test")]
    return _write_clips(tmp_path_factory.mktemp("clips"), rows)


@pytest.fixture
def tiny_model() -> dict[str, Any]:
    """The ``model`` section of a config, 32 px."""
    return copy.deepcopy(MODEL)


@pytest.fixture(scope="session")
def object_store() -> Iterator[str]:
    """Host and port of an S3 server on loopback."""
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(object_store: str) -> str:
    """The address of a new, empty bucket; put ``/path`` before its question mark."""
    name = f"bucket-{uuid.uuid4().hex}"
    store = fs.S3FileSystem(
        access_key="test",
        secret_key="test",
        endpoint_override=object_store,
        scheme="http",
        region="us-east-1",
        allow_bucket_creation=True,
    )
    store.create_dir(name)
    return f"s3://test:test@{name}?endpoint_override={quote(object_store)}&scheme=http&region=us-east-1"
