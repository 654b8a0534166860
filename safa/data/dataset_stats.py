"""Statistics of a preprocessed data set: counts by split, distributions, and sample frames to look at."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from safa.config.preprocess import PreprocessConfig
from safa.data.clip_store import ClipStore
from safa.data.shards import MANIFEST
from safa.data.sources import Listing
from safa.files import exists, join

SAMPLED = 500  # clips at most that are opened: a million would take an hour
SHOWN = 24  # of them with a frame on the contact sheet
SEED = 0


@dataclass(frozen=True)
class SplitCounts:
    """How many clips of a split the source lists, how many of them are stored, and why others are not.

    ``people`` are those of the stored clips.
    """

    split: str
    listed: int
    ok: int
    people: int
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
    folder = join(config.out, "clips")
    if not exists(join(folder, MANIFEST)):
        return DatasetStats(_splits(listed, set(), refused), 0, 0, (), (), 0.0, 0.0, ())
    store = ClipStore(folder)
    chosen = sorted(random.Random(SEED).sample(range(len(store)), min(SAMPLED, len(store))))
    clips = [store.info(number) for number in chosen]
    shown = sorted(random.Random(SEED).sample(chosen, min(SHOWN, len(chosen))))
    frames = sum(clip.n_frames for clip in clips)
    return DatasetStats(
        splits=_splits(listed, set(store.column("clip_id").to_pylist()), refused),
        clips=len(store),
        sampled=len(clips),
        seconds=tuple(clip.n_frames / clip.fps for clip in clips),
        box_px=tuple(min(clip.bbox[2] - clip.bbox[0], clip.bbox[3] - clip.bbox[1]) for clip in clips),
        bytes_per_frame=sum(map(store.image_bytes, chosen)) / frames,
        with_landmarks=sum(int(store.has_face(number).sum()) for number in chosen) / frames,
        samples=tuple(_sample(store, number) for number in shown),
    )


def _splits(listed: Listing, done: set[str], refused: Mapping[str, str]) -> tuple[SplitCounts, ...]:
    counts = []
    for split in ("train", "test"):
        jobs = [job for job in listed.jobs if job.split == split]
        codes = Counter(refused[job.clip_id] for job in jobs if job.clip_id in refused)
        stored = [job.person_id for job in jobs if job.clip_id in done]
        counts.append(SplitCounts(split, len(jobs), len(stored), len(set(stored)), dict(codes)))
    names = [row.name for row in listed.bad_rows]
    if names:  # unusable lines have no split
        codes = Counter(refused[name] for name in names if name in refused)
        counts.append(SplitCounts("unusable lines", len(names), 0, 0, dict(codes)))
    return tuple(counts)


def _sample(store: ClipStore, number: int) -> Sample:
    """The middle frame of a clip."""
    middle = store.n_frames(number) // 2
    (image,), (points,) = store.frames(number, [middle]), store.landmarks(number, [middle])
    return Sample(store.clip_id(number), image, points)
