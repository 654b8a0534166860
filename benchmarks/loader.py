"""How many training pairs a CPU core prepares per second, decoding and jitter included, and what stops it.

Makes a data set of JPEG clips in a temporary folder, then draws pairs as stage 2 does, in one thread:

- ``whole clip``: every frame of the clip is decoded for two of them, as reading a video file would;
- ``ranges``: two frames are read by their byte ranges and decoded (what training does);
- ``decoded``: decoded frames are kept in memory (``data.cache_mb``).

The decoder's own limit is measured in the same run: pairs of bare JPEGs per second by the decoder that is
used and by Pillow. Rates count CPU seconds of this process, so that another program's load does not enter.
Run: python benchmarks/loader.py [--size 256] [--seconds 5]
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from safa.config.preprocess import EncodingConfig
from safa.config.training import JitterConfig
from safa.data.clip_store import ClipStore
from safa.data.images import decode_image, encode_image
from safa.data.sampler import ClipTable, FrameCache, FrameReader, PairSampler, SampleOrder, clip_table
from safa.data.shards import ClipRecord, ShardWriter, commit_index

CLIPS, FRAMES, PIECE = 24, 160, 128
BATCH = 16
JPEG = EncodingConfig(format="jpeg", quality=95)


def write_clips(folder: Path, size: int) -> None:
    """Smooth random images that move: JPEGs of a face's size in bytes."""
    rng = np.random.default_rng(0)
    with ShardWriter(folder) as writer:
        for number in range(CLIPS):
            coarse = torch.from_numpy(rng.uniform(0, 255, (1, 3, 9, 9)))
            smooth = F.interpolate(coarse, (size, size), mode="bilinear")[0].permute(1, 2, 0).numpy()
            image = (smooth + rng.normal(0, 1.5, smooth.shape)).clip(0, 255).astype(np.uint8)
            frames = [encode_image(np.roll(image, t, 1), JPEG) for t in range(FRAMES)]
            person, video = f"id{number // 2:05d}", f"v{number}"
            clip_id = f"{person}#{video}#000000#{FRAMES:06d}"
            for first in range(0, FRAMES, PIECE):
                part = frames[first : first + PIECE]
                landmarks = rng.uniform(0, size, (len(part), 68, 2)).astype(np.float32)
                writer.add_piece(clip_id, first, part, landmarks, np.ones(len(part), np.float32))
            record = (clip_id, person, video, "train", 0, FRAMES, 25.0, size, size, (0, 0, size, size), "-")
            writer.keep(ClipRecord(*record))
    commit_index(folder)


class WholeClips(FrameCache):
    """A reader that decodes all frames of a clip for any of them."""

    def frames(self, clip: int, indices: Sequence[int]) -> list[np.ndarray]:
        every = self._reader.frames(clip, range(FRAMES))
        return [every[i] for i in indices]


def pairs_per_second(clips: ClipTable, reader: FrameReader, seconds: float) -> float:
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
        clips = clip_table(store, "train")
        ways: dict[str, FrameReader] = {
            "whole clip": WholeClips(store, 0),
            "ranges": FrameCache(store, 0),
            "decoded": FrameCache(store, 4096),
        }
        base = 0.0
        for name, reader in ways.items():
            rate = pairs_per_second(clips, reader, arguments.seconds)
            base = base or rate
            ratio = f"{rate / base:6.1f} x whole clip"
            print(f"{name:>10}: {rate:8.1f} pairs per CPU second at {arguments.size} px, {ratio}", flush=True)
        data = store.encoded_frames(0, range(PIECE))
        limits = {
            "simplejpeg": decode_image,
            "Pillow": lambda d: np.asarray(Image.open(io.BytesIO(d)).convert("RGB")),
        }
        for name, decode in limits.items():
            rate = _decoded_per_second(decode, data, arguments.seconds) / 2
            print(
                f"{name:>10}: {rate:8.1f} pairs per CPU second if nothing but JPEGs were decoded", flush=True
            )


def _decoded_per_second(decode: Callable[[bytes], np.ndarray], data: list[bytes], seconds: float) -> float:
    count, began = 0, time.process_time()
    while (spent := time.process_time() - began) < seconds / 2:
        for image in data:
            decode(image)
        count += len(data)
    return count / spent


if __name__ == "__main__":
    main()
