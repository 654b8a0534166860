"""Statistics of a preprocessed data set: counts by split, distributions, and sample frames to look at."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from safa.config.preprocess import PreprocessConfig
from safa.data.images import decode_image
from safa.data.schema import CLIP_FILES, NUM_LANDMARKS
from safa.data.sources import SPLITS, Listing

SAMPLED = 500  # clips at most that are opened: a million would take an hour
SHOWN = 24  # of them with a frame on the contact sheet
SEED = 0
COLUMNS = ["clip_id", "n_frames", "fps", "bbox"]


@dataclass(frozen=True)
class SplitCounts:
    """How many clips of a split the source lists, how many of them are stored, and why others are not."""

    split: str
    listed: int
    ok: int
    refused: dict[str, int]


@dataclass(frozen=True)
class Sample:
    """One frame of a clip: ``image`` (H, W, 3) uint8, ``landmarks`` (68, 2) px, NaN if there is no face."""

    clip_id: str
    image: NDArray[np.uint8]
    landmarks: NDArray[np.float32]


@dataclass(frozen=True)
class DatasetStats:
    """Counts of all clips, and distributions over a random sample of them.

    Attributes:
        clips: number of stored clips.
        sampled: number of clips in the sample.
        seconds: length of each sampled clip.
        box_px: shorter side of each one's crop box in its source.
        bytes_per_frame: size of the files over their number of frames.
        with_landmarks: share of frames with landmarks, 0 to 1.
        samples: frames to look at.
    """

    splits: tuple[SplitCounts, ...]
    clips: int
    sampled: int
    seconds: tuple[float, ...]
    box_px: tuple[int, ...]
    bytes_per_frame: float
    with_landmarks: float
    samples: tuple[Sample, ...]

    @property
    def hours(self) -> float:
        """Length of all clips, estimated from the mean of the sample."""
        return float(np.mean(self.seconds)) * self.clips / 3600 if self.seconds else 0.0

    def as_json(self) -> dict[str, Any]:
        """The statistics as plain data, without images and single clips."""
        return {
            "splits": [asdict(counts) for counts in self.splits],
            "hours": round(self.hours, 4),
            "sampled": self.sampled,
            "bytes_per_frame": round(self.bytes_per_frame, 1),
            "frames_with_landmarks": round(self.with_landmarks, 4),
        }


def compute_stats(config: PreprocessConfig, listed: Listing, refused: Mapping[str, str]) -> DatasetStats:
    """Compute the statistics of what is stored in ``config.out``.

    Args:
        refused: id to failure code of everything in the quarantine.
    """
    files = sorted((config.out / "clips").glob(CLIP_FILES))
    chosen = sorted(random.Random(SEED).sample(files, min(SAMPLED, len(files))))
    opened = [_clip_stats(path) for path in chosen]
    shown = sorted(random.Random(SEED).sample(chosen, min(SHOWN, len(chosen))))
    frames = sum(clip.frames for clip in opened)
    return DatasetStats(
        splits=_splits(listed, {path.stem for path in files}, refused),
        clips=len(files),
        sampled=len(opened),
        seconds=tuple(clip.frames / clip.fps for clip in opened),
        box_px=tuple(clip.box_px for clip in opened),
        bytes_per_frame=sum(path.stat().st_size for path in chosen) / frames if frames else 0.0,
        with_landmarks=sum(clip.with_landmarks for clip in opened) / frames if frames else 0.0,
        samples=tuple(_sample(path) for path in shown),
    )


def _splits(listed: Listing, done: set[str], refused: Mapping[str, str]) -> tuple[SplitCounts, ...]:
    counts = []
    for split in SPLITS:
        names = [job.clip_id for job in listed.jobs if job.split == split]
        codes = Counter(refused[name] for name in names if name in refused)
        counts.append(SplitCounts(split, len(names), sum(name in done for name in names), dict(codes)))
    names = [row.name for row in listed.bad_rows]
    if names:  # unusable lines have no split
        codes = Counter(refused[name] for name in names if name in refused)
        counts.append(SplitCounts("unusable lines", len(names), 0, dict(codes)))
    return tuple(counts)


@dataclass(frozen=True)
class _ClipStats:
    frames: int
    fps: float
    box_px: int  # shorter side of the crop box
    with_landmarks: int  # frames


def _clip_stats(path: Path) -> _ClipStats:
    rows = pq.read_table(path, columns=[*COLUMNS, "landmarks"]).to_pylist()
    left, top, right, bottom = rows[0]["bbox"]
    with_landmarks = sum(bool(np.isfinite(points).all()) for row in rows for points in row["landmarks"])
    frames = sum(row["n_frames"] for row in rows)
    return _ClipStats(frames, rows[0]["fps"], min(right - left, bottom - top), with_landmarks)


def _sample(path: Path) -> Sample:
    """The middle frame of a clip's first piece."""
    file = pq.ParquetFile(path)
    row = file.read_row_group(0, columns=["clip_id", "frames", "landmarks", "n_frames"]).to_pylist()[0]
    middle: int = row["n_frames"] // 2
    points = np.array(row["landmarks"][middle], dtype=np.float32).reshape(NUM_LANDMARKS, 2)
    return Sample(row["clip_id"], decode_image(row["frames"][middle]), points)
