"""What came of a preprocessing run: counts by split, and a sample of the clips to look at."""

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
from safa.data.schema import NUM_LANDMARKS
from safa.data.sources import SPLITS, Listing

SAMPLED = 500  # clips at most that are opened: a run of a million must not take an hour to sum up
SHOWN = 24  # of them on the contact sheet
SEED = 0
COLUMNS = ["clip_id", "n_frames", "fps", "bbox"]


@dataclass(frozen=True)
class SplitCounts:
    """Of the clips that the source lists for a split, how many are there, and why others are not."""

    split: str
    listed: int
    ok: int
    refused: dict[str, int]


@dataclass(frozen=True)
class Sample:
    """One frame of a clip: ``picture`` (H, W, 3) uint8, ``landmarks`` (68, 2) px, NaN if there is no face."""

    clip_id: str
    picture: NDArray[np.uint8]
    landmarks: NDArray[np.float32]


@dataclass(frozen=True)
class DatasetStats:
    """Counts of everything, distributions of a sample.

    Attributes:
        sampled: how many clips were opened for the rest, chosen at random.
        seconds: length of each.
        box_px: shorter side of each one's box in its source.
        bytes_per_frame: of stored frames, with all that is beside them.
        marked: share of frames with landmarks.
    """

    splits: tuple[SplitCounts, ...]
    clips: int
    sampled: int
    seconds: tuple[float, ...]
    box_px: tuple[int, ...]
    bytes_per_frame: float
    marked: float
    samples: tuple[Sample, ...]

    @property
    def hours(self) -> float:
        """Of all clips, from the mean of the sample."""
        return float(np.mean(self.seconds)) * self.clips / 3600 if self.seconds else 0.0

    def as_json(self) -> dict[str, Any]:
        """Without pictures and single clips."""
        return {
            "splits": [asdict(counts) for counts in self.splits],
            "hours": round(self.hours, 4),
            "sampled": self.sampled,
            "bytes_per_frame": round(self.bytes_per_frame, 1),
            "frames_with_landmarks": round(self.marked, 4),
        }


def gather(config: PreprocessConfig, listed: Listing, refused: Mapping[str, str]) -> DatasetStats:
    """Look at what is in ``out``.

    Args:
        refused: id to code of what is in the quarantine.
    """
    files = sorted((config.out / "clips").glob("split=*/*.parquet"))
    chosen = sorted(random.Random(SEED).sample(files, min(SAMPLED, len(files))))
    opened = [_opened(path) for path in chosen]
    shown = sorted(random.Random(SEED).sample(chosen, min(SHOWN, len(chosen))))
    frames = sum(clip.frames for clip in opened)
    return DatasetStats(
        splits=_splits(listed, {path.stem for path in files}, refused),
        clips=len(files),
        sampled=len(opened),
        seconds=tuple(clip.frames / clip.fps for clip in opened),
        box_px=tuple(clip.box_px for clip in opened),
        bytes_per_frame=sum(path.stat().st_size for path in chosen) / frames if frames else 0.0,
        marked=sum(clip.marked for clip in opened) / frames if frames else 0.0,
        samples=tuple(_look(path) for path in shown),
    )


def _splits(listed: Listing, done: set[str], refused: Mapping[str, str]) -> tuple[SplitCounts, ...]:
    counts = []
    for split in SPLITS:
        names = [job.clip_id for job in listed.jobs if job.split == split]
        codes = Counter(refused[name] for name in names if name in refused)
        counts.append(SplitCounts(split, len(names), sum(name in done for name in names), dict(codes)))
    names = [row.name for row in listed.bad_rows]
    if names:  # lines that say nothing usable have no split either
        codes = Counter(refused[name] for name in names if name in refused)
        counts.append(SplitCounts("unusable lines", len(names), 0, dict(codes)))
    return tuple(counts)


@dataclass(frozen=True)
class _Opened:
    frames: int
    fps: float
    box_px: int
    marked: int


def _opened(path: Path) -> _Opened:
    rows = pq.read_table(path, columns=[*COLUMNS, "landmarks"]).to_pylist()
    left, top, right, bottom = rows[0]["bbox"]
    marked = sum(bool(np.isfinite(points).all()) for row in rows for points in row["landmarks"])
    frames = sum(row["n_frames"] for row in rows)
    return _Opened(frames, rows[0]["fps"], min(right - left, bottom - top), marked)


def _look(path: Path) -> Sample:
    """The middle frame of the first piece."""
    file = pq.ParquetFile(path)
    row = file.read_row_group(0, columns=["clip_id", "frames", "landmarks", "n_frames"]).to_pylist()[0]
    middle: int = row["n_frames"] // 2
    points = np.array(row["landmarks"][middle], dtype=np.float32).reshape(NUM_LANDMARKS, 2)
    return Sample(row["clip_id"], decode_image(row["frames"][middle]), points)
