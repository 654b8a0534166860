"""How many training pairs a CPU core prepares per second, and what is saved by reading only the frames used.

Makes a data set of JPEG clips in a temporary folder, then draws pairs as stage 2 does, jitter included, in
one thread:

- ``whole clip``: every frame of the clip is decoded for two of them, as reading a video file would;
- ``disk``: two frames are decoded; the piece they are in is read anew each time, as in a data set much larger
  than memory;
- ``memory``: the same with encoded pieces kept in memory (what ``ClipStore`` does by itself);
- ``decoded``: decoded frames are kept in memory (``data.cache_mb``).

Rates count CPU seconds of this process, so that another program's load does not enter; ratios are of one run.
Run: python benchmarks/loader.py [--size 256] [--seconds 5]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F

from safa.config.preprocess import EncodingConfig
from safa.config.training import JitterConfig
from safa.data.clip_store import ClipStore
from safa.data.images import encode_image
from safa.data.sampler import ClipRef, FrameCache, FrameReader, PairSampler, SampleOrder
from safa.data.schema import CLIP_SCHEMA

CLIPS, FRAMES, PIECE = 24, 160, 128
BATCH = 16
JPEG = EncodingConfig(format="jpeg", quality=95)


def write_clips(folder: Path, size: int) -> None:
    """Smooth random pictures that move: JPEGs of a face's size in bytes."""
    rng = np.random.default_rng(0)
    (folder / "split=train").mkdir(parents=True)
    for number in range(CLIPS):
        coarse = torch.from_numpy(rng.uniform(0, 255, (1, 3, 9, 9)))
        smooth = F.interpolate(coarse, (size, size), mode="bilinear")[0].permute(1, 2, 0).numpy()
        picture = (smooth + rng.normal(0, 1.5, smooth.shape)).clip(0, 255).astype(np.uint8)
        frames = [encode_image(np.roll(picture, t, 1), JPEG) for t in range(FRAMES)]
        rows = [_row(number, piece, frames[start : start + PIECE], size)
                for piece, start in enumerate(range(0, FRAMES, PIECE))]  # fmt: skip
        table = pa.Table.from_pylist(rows, schema=CLIP_SCHEMA)
        path = folder / "split=train" / f"{number}.parquet"
        pq.write_table(table, path, row_group_size=1, compression="none")  # as pipelines/preprocess does


def _row(number: int, piece: int, frames: list[bytes], size: int) -> dict[str, object]:
    person = f"id{number // 2:05d}"
    landmarks = np.random.default_rng(number).uniform(0, size, (len(frames), 136)).astype(np.float32)
    return {
        "clip_id": f"{person}#v{number}#000000#{FRAMES:06d}", "person_id": person, "video_id": f"v{number}",
        "split": "train", "start": 0, "end": FRAMES, "piece": piece, "n_frames": len(frames), "fps": 25.0,
        "height": size, "width": size, "frames": frames, "landmarks": list(landmarks),
        "face_score": [1.0] * len(frames), "bbox": [0, 0, size, size], "source": "benchmark",
    }  # fmt: skip


class Uncached(ClipStore):
    """Forgets each piece at once."""

    def frames(self, clip_id: str, indices: Sequence[int]) -> list[np.ndarray]:
        self.__dict__.update(self.__getstate__())
        return super().frames(clip_id, indices)


class WholeClips:
    """A reader that decodes all frames of a clip for any of them."""

    def __init__(self, store: ClipStore) -> None:
        self._store = store

    def frames(self, clip_id: str, indices: Sequence[int]) -> list[np.ndarray]:
        every = self._store.frames(clip_id, range(self._store.info(clip_id).n_frames))
        return [every[i] for i in indices]

    def landmarks(self, clip_id: str) -> np.ndarray:
        return self._store.landmarks(clip_id)


def pairs_per_second(clips: Sequence[ClipRef], reader: FrameReader, seconds: float) -> float:
    """Pairs of whole batches per CPU second."""
    sampler = PairSampler(SampleOrder(clips, 0, 150), reader, JitterConfig(), 0.5)
    sampler.batch(range(BATCH))
    count, began = 0, time.process_time()
    while (spent := time.process_time() - began) < seconds:
        sampler.batch(range(count, count + BATCH))
        count += BATCH
    return count / spent


def main() -> None:
    """Print one line per way of reading."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=256, help="px, both sides of a frame")
    parser.add_argument("--seconds", type=float, default=5.0, help="to measure each way for")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        write_clips(Path(folder), arguments.size)
        store = ClipStore(Path(folder))
        clips = [ClipRef(info.clip_id, info.person_id, info.n_frames) for info in store.index]
        ways: dict[str, FrameReader] = {
            "whole clip": WholeClips(store),
            "disk": FrameCache(Uncached(Path(folder)), 0),
            "memory": FrameCache(store, 0),
            "decoded": FrameCache(store, 4096),
        }
        base = 0.0
        for name, reader in ways.items():
            rate = pairs_per_second(clips, reader, arguments.seconds)
            base = base or rate
            ratio = f"{rate / base:6.1f} x whole clip"
            print(f"{name:>10}: {rate:8.1f} pairs per CPU second at {arguments.size} px, {ratio}")


if __name__ == "__main__":
    main()
