"""What opening and reading a data set costs: ``python benchmarks/dataset.py [--million]``.

- ``pair``: bytes read over bytes used, as the operating system counts them, and pairs read per CPU second
  without decoding, from the page cache, drawn beforehand and drawn on the way;
- ``open``: seconds, and private memory, of opening the index of 20,000 clips of 205 frames (VoxCeleb1), and
  with ``--million`` of a million clips of 100 frames, each in a process of its own. Indexes are made by this
  script; their images are empty.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from safa.config.training import JitterConfig
from safa.data.clip_store import ClipStore
from safa.data.sampler import PairSampler, SampleOrder, clip_table
from safa.data.shards import (
    FORMAT,
    INDEX,
    INDEX_SCHEMA,
    MANIFEST,
    SHARD_NAMES,
    SHARDS,
    ClipRecord,
    ShardWriter,
    commit_index,
)

CLIPS, FRAMES, PIECE = 64, 160, 128
IMAGE_BYTES = 22_000  # of a face at 256 px
PAIRS = 20_000
VOXCELEB, MILLION = (20_000, 205), (1_000_000, 100)
CHILD = """
import json, sys, time
from safa.data.clip_store import ClipStore
def private():
    fields = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
    return int(fields["RssAnon"].split()[0]) / 1024
before, began = private(), time.perf_counter()
store = ClipStore(sys.argv[1])
opened = time.perf_counter() - began
from safa.data.sampler import SampleOrder, clip_table
order = SampleOrder(clip_table(store, "train"), 0, 1)
drawn = [order.draw(n).clip for n in range(100)]
print(json.dumps([opened, time.perf_counter() - began, private() - before]))
"""


def main() -> None:
    """Print one line per question."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--million", action="store_true", help="also an index of a million clips (1 GiB of disk)"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        _pairs(Path(folder))
    for clips, frames in (VOXCELEB, MILLION) if arguments.million else (VOXCELEB,):
        with tempfile.TemporaryDirectory() as folder:
            _open(Path(folder), clips, frames)


def _pairs(folder: Path) -> None:
    rng = np.random.default_rng(0)
    with ShardWriter(folder) as writer:
        for number in range(CLIPS):
            clip_id = f"id{number // 2:05d}#v{number}#000000#{FRAMES:06d}"
            for first in range(0, FRAMES, PIECE):
                count = min(PIECE, FRAMES - first)
                images = [rng.bytes(IMAGE_BYTES) for _ in range(count)]
                points = rng.uniform(0, 256, (count, 68, 2)).astype(np.float32)
                writer.add_piece(clip_id, first, images, points, np.ones(count, np.float32))
            person, video = clip_id.split("#")[:2]
            writer.keep(
                ClipRecord(clip_id, person, video, "train", 0, FRAMES, 25.0, 256, 256, (0, 0, 9, 9), "-")
            )
    commit_index(folder)
    store = ClipStore(folder)
    order = SampleOrder(clip_table(store, "train"), 0, 1000)
    sampler = PairSampler(order, store, JitterConfig(), 0.5)
    draws = [order.draw(n) for n in range(PAIRS)]
    drawn = [(draw.clip, sampler.choose(draw.clip, draw.rng)) for draw in draws]
    for number, chosen in drawn:  # into the page cache
        store.encoded_frames(number, chosen)
    used = sum(store.image_range(number, i)[1] + 544 for number, chosen in drawn for i in chosen)
    before, began = _bytes_read(), time.process_time()
    for number, chosen in drawn:
        store.encoded_frames(number, chosen)
        store.landmarks(number, chosen)
    spent, read = time.process_time() - began, _bytes_read() - before
    began = time.process_time()
    for n in range(PAIRS):
        draw = order.draw(n)
        number, chosen = draw.clip, sampler.choose(draw.clip, draw.rng)
        store.encoded_frames(number, chosen)
        store.landmarks(number, chosen)
    both = time.process_time() - began
    print(f"pair: {read / used:.3f} bytes read over bytes used", flush=True)
    print(f"pair: {PAIRS / spent:,.0f} a CPU second read, {PAIRS / both:,.0f} drawn and read", flush=True)


def _bytes_read() -> int:
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["rchar"])


def _open(folder: Path, clips: int, frames: int) -> None:
    """Write an index of so many clips, then open it in a process of its own."""
    write_index(folder, clips, frames)
    command = [sys.executable, "-c", CHILD, str(folder)]
    runs = [
        json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        for _ in range(3)
    ]
    opened, drawn, private = (sorted(run[i] for run in runs)[1] for i in range(3))
    times = f"{opened:.2f} s, with the first 100 samples drawn {drawn:.2f} s"
    print(
        f"open: {clips:,} clips of {frames} frames: {times}; {private:.0f} MiB of private memory", flush=True
    )


def write_index(folder: Path, clips: int, frames: int) -> None:
    """Write the index of a data set of so many clips, whose images are empty."""
    (folder / INDEX).mkdir(parents=True)
    (folder / SHARDS).mkdir()
    shards = [f"{uuid.UUID(int=number).hex}.parquet" for number in range(max(1, clips // 250))]
    people = [f"id{number // 16:06d}" for number in range(clips)]
    numbers, pieces = np.arange(clips, dtype=np.int32), -(-frames // 128)
    constant = {
        "start": 0,
        "end": frames,
        "height": 256,
        "width": 256,
        "n_frames": frames,
        "piece_frames": 128,
    }
    columns = {
        "clip_id": [f"{person}#v{number:08d}#000000#{frames:06d}" for number, person in enumerate(people)],
        "person_id": people,
        "video_id": [f"v{number:08d}" for number in range(clips)],
        "split": ["train" if number % 20 else "test" for number in range(clips)],
        **{name: np.full(clips, value, np.int32) for name, value in constant.items()},
        "fps": np.full(clips, 25.0, np.float32),
        "bbox": pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(4 * clips, np.int32)), 4),
        "source": ["-"] * clips,
        "piece_shard": pa.LargeListArray.from_arrays(
            pa.array(np.arange(clips + 1, dtype=np.int64) * pieces),
            pa.array(np.repeat(numbers % len(shards), pieces)),
        ),
        **{name: _lists(clips, pieces, np.int64) for name in ("image_start", "landmarks_start")},
        "image_size": _lists(clips, frames, np.int32),
        "has_face": _lists(clips, frames, np.uint8),
    }
    table = pa.table([columns[name] for name in INDEX_SCHEMA.names], names=INDEX_SCHEMA.names).cast(
        INDEX_SCHEMA
    )
    table = table.replace_schema_metadata({SHARD_NAMES: json.dumps(shards)})
    name = f"{uuid.uuid4().hex}.arrow"
    with pa.OSFile(str(folder / INDEX / name), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    record = {"format": FORMAT, "index": name, "clips": clips, "frames": clips * frames, "shards": shards}
    (folder / MANIFEST).write_text(json.dumps(record))


def _lists(rows: int, length: int, dtype: type) -> pa.Array:
    offsets = np.arange(rows + 1, dtype=np.int64) * length
    return pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(np.ones(rows * length, dtype)))


if __name__ == "__main__":
    main()
